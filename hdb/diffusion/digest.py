"""Digests that identify a base and its autoencoder."""

import hashlib
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from torch import nn

# The autoencoder's decoder, which is often replaced by a sharper one. Neither theta nor latents depend on it.
_DECODER_PREFIXES = ("decoder.", "post_quant_conv.")


def compute_base_digest(vae: AutoencoderKL, components: Mapping[str, nn.Module]) -> str:
    """Sixteen hex digits that identify a base by what theta depends on.

    Hashes names and shapes of all tensors and their first 16 values as float16, without the autoencoder's decoder.

    Args:
        components: The parts that are personalized, in the order of theta.
    """
    sha = hashlib.sha256()
    for module in (vae, *components.values()):
        # Names without `text_model.`, which transformers 5 dropped.
        parameters = {name.replace("text_model.", ""): value for name, value in module.named_parameters()}
        names = sorted(name for name in parameters if module is not vae or not name.startswith(_DECODER_PREFIXES))
        for name in names:
            sha.update(name.encode())
        for name in names:
            value = parameters[name]
            sha.update(str(tuple(value.shape)).encode())
            if value.device.type != "meta":
                sha.update(value.detach().flatten()[:16].to("cpu", torch.float16).numpy().tobytes())
    return sha.hexdigest()[:16]


def compute_autoencoder_digest(vae: AutoencoderKL, *, resolution: int) -> str:
    """Sixteen hex digits that identify an autoencoder by what its latents depend on: scale, resolution and weights.

    Args:
        resolution: Side in pixels of the encoded pictures.
    """
    sha = hashlib.sha256(repr((vae.config.scaling_factor, vae.config.shift_factor, resolution)).encode())
    for name, value in sorted(vae.named_parameters()):
        if not name.startswith(_DECODER_PREFIXES):
            sha.update(f"{name} {tuple(value.shape)}".encode())
            if not value.is_meta:
                sha.update(value.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
