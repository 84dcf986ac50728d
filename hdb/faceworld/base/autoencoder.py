"""AutoencoderTraining: 8x8 pixels become one latent position."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hdb.faceworld.base import models
from hdb.faceworld.base.principal import initialize_encoder
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views

NUM_FOR_COMPONENTS = 480  # pictures of which the principal components are computed
NUM_FOR_SCALE = 512  # pictures of which scale and shift of the latents are computed
MAX_NOISE = 0.25  # largest standard deviation of the noise on latents, whose own is about 1


class AutoencoderTraining(PartTraining):
    """A frozen encoder in closed form, and a decoder that is trained with a loss of pixels and of edges.

    The latents are principal components of patches (see `principal`), so they need no training, and the denoiser can be
    trained on them at the same time. The decoder sees latents with noise of a random strength, because those that a
    denoiser draws are never exact. There is no adversarial loss: it would invent details.
    """

    def __init__(self, views: Views, *, resolution: int, **training):
        super().__init__(views, **training)
        self.autoencoder = models.autoencoder(resolution)
        indices = self.views.batch_indices(0, min(NUM_FOR_COMPONENTS, len(self.views)), seed=self.seed)
        initialize_encoder(self.autoencoder, self.views.pictures(indices))
        self.standardize_latents()
        self.autoencoder.encoder.requires_grad_(False)
        self.autoencoder.quant_conv.requires_grad_(False)
        self.autoencoder.to(memory_format=torch.channels_last)

    @property
    def trained_module(self) -> torch.nn.Module:
        return self.autoencoder

    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = self.views.pictures(indices).to(self.device) * 2 - 1
        with torch.no_grad():
            latents = self.autoencoder.encode(pixels).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator)
        noise = noise * torch.rand(len(indices), 1, 1, 1, generator=generator)
        error = self.autoencoder.decode(latents + MAX_NOISE * noise.to(latents)).sample - pixels
        l1 = error.abs().mean()
        l2 = error.square().mean()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        return {"loss": l1 + 4 * l2 + edges, "l1": l1, "psnr": -10 * torch.log10(l2 / 4)}

    @torch.no_grad()
    def standardize_latents(self) -> None:
        """Sets shift and scale so that latents of training pictures have mean 0 and standard deviation 1."""
        indices = self.views.batch_indices(0, min(NUM_FOR_SCALE, len(self.views)), seed=self.seed)
        pixels = self.views.pictures(indices).to(self.device) * 2 - 1
        latents = torch.cat([self.autoencoder.encode(part).latent_dist.mean for part in pixels.split(32)])
        self.autoencoder.register_to_config(
            scaling_factor=round(1 / float(latents.std()), 6), shift_factor=round(float(latents.mean()), 6)
        )

    def save(self, folder: Path) -> None:
        self.autoencoder.half().save_pretrained(folder)
        self.autoencoder.float()
