"""Which base it is: a few digits that all personal weights made for it carry."""

import hashlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

# The decoder of the autoencoder: theta never sees it, and people exchange it for a sharper one.
_UNSEEN = ("decoder.", "post_quant_conv.")


def weights_digest(vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> str:
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
