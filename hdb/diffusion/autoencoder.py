"""What latents depend on, in sixteen hex digits."""

import hashlib

import torch
from diffusers import AutoencoderKL

UNSEEN = ("decoder.", "post_quant_conv.")  # by a latent


def autoencoder_digest(vae: AutoencoderKL, *, resolution: int) -> str:
    """Tells autoencoders apart by the latents they make: their scale, the pictures' size, every weight as fp16.

    Args:
        resolution: side in pixels of the pictures that are encoded.
    """
    sha = hashlib.sha256(repr((vae.config.scaling_factor, vae.config.shift_factor, resolution)).encode())
    for name, value in sorted(vae.named_parameters()):
        if not name.startswith(UNSEEN):
            sha.update(f"{name} {tuple(value.shape)}".encode())
            if not value.is_meta:
                sha.update(value.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
