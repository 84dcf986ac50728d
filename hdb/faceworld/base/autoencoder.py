"""AutoencoderTraining: 8x8 pixels become one latent cell and come back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hdb.faceworld.base import models
from hdb.faceworld.base.part import Part
from hdb.faceworld.base.principal import start_at_components
from hdb.faceworld.base.views import Views

NUM_FOR_START = 480  # pictures that the components are taken from
NUM_STANDARDIZED = 512  # and those that scale and shift of the latents are
NOISE = 0.25  # largest deviation of the noise on a picture's latents, which have about 1


class AutoencoderTraining(Part):
    """A closed-form encoder, kept, and a decoder that learns to undo it: pixel distance and that of edges.

    The latents are principal components of patches (see `principal`), so they are good before any training. They stay
    as they are, and so the denoiser can be trained on them at the same time. What a denoiser draws is never quite
    right, so the decoder sees latents with some noise, little or much, and learns to draw a likely picture from those.
    No adversary: it would invent details.
    """

    def __init__(self, views: Views, *, resolution: int, **part):
        super().__init__(views, **part)
        self.autoencoder = models.autoencoder(resolution)
        chosen = self.views.pick(0, min(NUM_FOR_START, len(self.views)), seed=self.seed)
        start_at_components(self.autoencoder, self.views.pictures(chosen))
        self.standardize()
        self.autoencoder.encoder.requires_grad_(False)
        self.autoencoder.quant_conv.requires_grad_(False)
        self.autoencoder.to(memory_format=torch.channels_last)

    def trained(self) -> torch.nn.Module:
        return self.autoencoder

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = self.views.pictures(flat).to(self.device) * 2 - 1
        with torch.no_grad():
            latents = self.autoencoder.encode(pixels).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator) * torch.rand(len(flat), 1, 1, 1, generator=generator)
        error = self.autoencoder.decode(latents + NOISE * noise.to(latents)).sample - pixels
        l1, l2 = error.abs().mean(), error.square().mean()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        return {"loss": l1 + 4 * l2 + edges, "l1": l1, "psnr": -10 * torch.log10(l2 / 4)}

    @torch.no_grad()
    def standardize(self) -> None:
        """Sets shift and scale so that latents of training pictures have mean 0 and deviation 1."""
        picked = self.views.pick(0, min(NUM_STANDARDIZED, len(self.views)), seed=self.seed)
        pixels = self.views.pictures(picked).to(self.device) * 2 - 1
        latents = torch.cat([self.autoencoder.encode(part).latent_dist.mean for part in pixels.split(32)])
        self.autoencoder.register_to_config(
            scaling_factor=round(1 / float(latents.std()), 6), shift_factor=round(float(latents.mean()), 6)
        )

    def save(self, folder: Path) -> None:
        self.autoencoder.half().save_pretrained(folder)
        self.autoencoder.float()
