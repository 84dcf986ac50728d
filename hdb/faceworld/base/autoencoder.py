"""AutoencoderTraining: 8x8 pixels become one latent cell and come back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from hdb.faceworld.base import models
from hdb.faceworld.base.part import Part
from hdb.faceworld.base.views import Views

KL_WEIGHT = 2e-4  # per latent number; enough to keep the latents smooth, too little to be seen in the pictures


class AutoencoderTraining(Part):
    """Pixel distance, distance of pixel differences (edges), and a little KL. No adversary: it would invent details.

    Args:
        trained: an autoencoder whose decoder alone is trained further. Its latents stay, and so does what learned them.
    """

    def __init__(self, views: Views, *, resolution: int, trained: AutoencoderKL | None = None, **part):
        super().__init__(views, **part)
        torch.manual_seed(self.seed)
        self.decoder_only = trained is not None
        self.autoencoder = (trained or models.autoencoder(resolution)).to(memory_format=torch.channels_last)
        if self.decoder_only:
            self.autoencoder.encoder.requires_grad_(False)
            self.autoencoder.quant_conv.requires_grad_(False)

    def trained(self) -> torch.nn.Module:
        return self.autoencoder

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = self.views.pictures(flat).to(self.device) * 2 - 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_only):
            posterior = self.autoencoder.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(pixels)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample
        error = decoded - pixels
        l1, l2 = error.abs().mean(), error.square().mean()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": l1 + 2 * l2 + edges + KL_WEIGHT * kl, "l1": l1, "psnr": -10 * torch.log10(l2 / 4), "kl": kl}

    @torch.no_grad()
    def standardize(self) -> None:
        """Sets shift and scale so that latents of training pictures have mean 0 and deviation 1."""
        picked = self.views.pick(0, min(512, len(self.views)), seed=self.seed)
        pixels = self.views.pictures(picked).to(self.device) * 2 - 1
        latents = torch.cat([self.autoencoder.encode(part).latent_dist.mean for part in pixels.split(32)])
        self.autoencoder.register_to_config(
            scaling_factor=round(1 / float(latents.std()), 6), shift_factor=round(float(latents.mean()), 6)
        )

    def save(self, folder: Path) -> None:
        if not self.decoder_only:
            self.standardize()
        self.autoencoder.half().save_pretrained(folder)
        self.autoencoder.float()
