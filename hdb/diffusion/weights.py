"""Exchanges the weights of the base for a person's, and restores them exactly."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hdb.diffusion.stable_diffusion import StableDiffusion


def named_weights(diffusion: StableDiffusion) -> dict[str, nn.Parameter]:
    """All parameters of the components that are personalized, by name. LiDB layers do not change the names.

    `text_model.` is left out of the names, as in transformers 5.
    """
    return {
        f"{component}.{name.replace('text_model.', '')}": parameter
        for component, module in diffusion.components.items()
        for name, parameter in module.named_parameters()
    }


def weights_checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of all values. The digest of a base hashes only some of them."""
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def copy_weights(diffusion: StableDiffusion) -> dict[str, Tensor]:
    """Copies all parameters of the components that are personalized, on their device."""
    return {name: parameter.detach().clone() for name, parameter in named_weights(diffusion).items()}


@contextmanager
def exchange_weights(
    diffusion: StableDiffusion,
    weights: Mapping[str, Tensor] | None = None,
    *,
    backup: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, nn.Parameter]]:
    """Exchanges the weights within a `with` block and restores the previous ones after it.

    Args:
        weights: Named as by `named_weights`. None keeps the present values, for training.
        backup: The weights to restore, from `copy_weights`. None makes a copy here.

    Yields:
        The parameters. After the block they are frozen and have no gradients.
    """
    parameters = named_weights(diffusion)
    if backup is None:
        backup = copy_weights(diffusion)
    try:
        _copy_into(parameters, weights or {})
        yield parameters
    finally:
        _copy_into(parameters, backup)
        for parameter in parameters.values():
            parameter.requires_grad_(False).grad = None


@torch.no_grad()
def _copy_into(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        parameters[name].copy_(value)
