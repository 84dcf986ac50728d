"""The weights of the base that a method may exchange for somebody's, and puts back bit by bit."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hdb.diffusion.stable_diffusion import StableDiffusion


def named_weights(diffusion: StableDiffusion) -> dict[str, nn.Parameter]:
    """All weights of UNet and text encoder, whether or not there are LiDB layers in them.

    The names are those of a file: `text_model.` is left out of them, as transformers 5 leaves it out.
    """
    parts = {"unet": diffusion.unet, "text_encoder": diffusion.text_encoder}
    return {
        f"{part}.{name.replace('text_model.', '')}": parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }


def weights_checksum(weights: Mapping[str, Tensor]) -> str:
    """Sixty-four hex digits over every bit of them; the base's own digest looks at a few weights of each tensor."""
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def copy_weights(diffusion: StableDiffusion) -> dict[str, Tensor]:
    """A copy of all of them, beside them on their device."""
    return {name: parameter.detach().clone() for name, parameter in named_weights(diffusion).items()}


@contextmanager
def exchange_weights(
    diffusion: StableDiffusion,
    weights: Mapping[str, Tensor] | None = None,
    *,
    kept: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, nn.Parameter]]:
    """Somebody's weights, or the base's own to be trained, within a `with` block; behind it the base is as it was.

    Args:
        weights: as `named_weights` names them; None begins with the base's own.
        kept: what to put back, from `copy_weights`; None makes a copy here.

    Yields:
        The parameters. Behind the block they have no gradient and need none.
    """
    parameters = named_weights(diffusion)
    kept = copy_weights(diffusion) if kept is None else kept
    try:
        _copy(weights or {}, parameters)
        yield parameters
    finally:
        _copy(kept, parameters)
        for parameter in parameters.values():
            parameter.requires_grad_(False).grad = None


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name, value in weights.items():
        parameters[name].copy_(value)
