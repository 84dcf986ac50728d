"""Which base it is: a few digits that all personal weights made for it carry, and what latents depend on."""

import hashlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

# The decoder of the autoencoder: theta never sees it, and people exchange it for a sharper one. Nor does a latent.
_UNSEEN = ("decoder.", "post_quant_conv.")


def compute_base_digest(vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> str:
    """Sixteen hex digits that tell bases apart by what theta depends on: a few weights of every tensor, as fp16."""
    sha = hashlib.sha256()
    for module in (vae, unet, text_encoder):
        named = {name.replace("text_model.", ""): value for name, value in module.named_parameters()}
        kept = sorted(name for name in named if module is not vae or not name.startswith(_UNSEEN))
        for name in kept:
            sha.update(name.encode())
        for name in kept:
            sha.update(str(tuple(named[name].shape)).encode())
            if named[name].device.type != "meta":
                sha.update(named[name].detach().flatten()[:16].to("cpu", torch.float16).numpy().tobytes())
    return sha.hexdigest()[:16]


def compute_autoencoder_digest(vae: AutoencoderKL, *, resolution: int) -> str:
    """Sixteen hex digits that tell autoencoders apart by the latents they make.

    Of their scale, the size of pictures, and every weight as fp16.

    Args:
        resolution: side in pixels of the pictures that are encoded.
    """
    sha = hashlib.sha256(repr((vae.config.scaling_factor, vae.config.shift_factor, resolution)).encode())
    for name, value in sorted(vae.named_parameters()):
        if not name.startswith(_UNSEEN):
            sha.update(f"{name} {tuple(value.shape)}".encode())
            if not value.is_meta:
                sha.update(value.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
