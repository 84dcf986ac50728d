"""DenoiserTraining: the UNet of the small Stable Diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.diffusion.families.sd1 import StableDiffusion1
from hdb.diffusion.graphs import Tensors
from hdb.diffusion.published import publish
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.transfer import to_device
from hdb.faceworld.base import models
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views
from hdb.losses import diffusion_loss
from hdb.training.graphed_network import GraphedNetworkStep

EMPTY_CAPTIONS = 0.1  # share of captions that are replaced by "", for classifier-free guidance


@dataclass(frozen=True)
class DenoisingLoss:
    """How far a base's prediction is from the noise. A function of tensors alone, which a CUDA graph can hold."""

    base: StableDiffusion

    def __call__(self, inputs: Tensors) -> Tensor:
        """The loss.

        Args:
            inputs: Latents, noise and timesteps, and tokens as `StableDiffusion.tokenize_prompts` returns them.
        """
        latents = inputs["latents"]
        noise = inputs["noise"]
        timesteps = inputs["timesteps"]
        with torch.no_grad():
            condition = self.base.encode_tokens(inputs)
        noise_pred = self.base.predict_noise(self.base.add_noise(latents, noise, timesteps), timesteps, condition)
        return diffusion_loss(noise_pred, self.base.denoising_target(latents, noise, timesteps))


class DenoiserTraining(PartTraining):
    """Denoising of the latents of a frozen autoencoder under the captions; saves an average of the UNet's weights."""

    def __init__(
        self,
        views: Views,
        *,
        unet: UNet2DConditionModel,
        autoencoder: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        **training,
    ):
        super().__init__(views, **training)
        parts = {
            "vae": autoencoder,
            "unet": unet,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "scheduler": models.noise_scheduler(),
        }
        base = StableDiffusion(parts, family=StableDiffusion1())
        self._base = [base]  # in a list, so that checkpoints do not hold the frozen networks
        self.unet = base.unet.requires_grad_(True).train()
        self._step = GraphedNetworkStep(
            DenoisingLoss(base),
            parameters=list(self.unet.parameters()),
            diffusion=base,
            name="training of the denoiser",
        )
        self.average = EMAModel(self.unet.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75, foreach=True)
        self._latents: Tensor | None = None
        self._tokens: dict[str, Tensor] = {}

    @property
    def base(self) -> StableDiffusion:
        return self._base[0]

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """Encodes all pictures and tokenizes all captions, which never change, and keeps them on the device.

        Latents are 12 times smaller than their pictures.
        """
        self.base.to(self.device)
        if self.device.type == "cpu":
            self.base.use_plain_attention()
        self.average.to(self.device)
        chunks = torch.arange(len(self.views)).split(128)
        latents = [
            self.base.encode_images(to_device(self.views.pictures(indices), self.device)).half()
            for indices in tqdm(chunks, desc="encoding faceworld", leave=False)
        ]
        self._latents = torch.cat(latents)
        self._tokens = self.base.tokenize_prompts([*self.views.distinct_captions, ""])

    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": self._step(self.draw(indices, generator))}

    def draw(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """What a step reads, on the device: latents, noise, timesteps and a caption's tokens of each picture.

        All random numbers are drawn on the CPU, so that they are the same on every device.
        """
        captions = self.views.sample_caption_rows(indices, generator)
        is_empty = torch.rand(len(captions), generator=generator) < EMPTY_CAPTIONS
        captions = captions.masked_fill(is_empty, len(self.views.distinct_captions))
        noise = torch.randn(len(indices), *self._latents.shape[1:], generator=generator)
        # One timestep in each of n equal intervals: the loss varies less than with independent draws.
        times = (torch.arange(len(indices)) + torch.rand(len(indices), generator=generator)) / len(indices)
        timesteps = (times * self.base.num_train_timesteps).long()
        rows = to_device(torch.stack([indices, captions]), self.device)
        return {
            "latents": self._latents[rows[0]].float(),
            "noise": to_device(noise, self.device),
            "timesteps": to_device(timesteps, self.device),
            **{name: tokens[rows[1]] for name, tokens in self._tokens.items()},
        }

    @property
    def trained_module(self) -> torch.nn.Module:
        return self.unet

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average.step(self.unet.parameters())  # a hook after the batch would run after checkpoints are written

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average.load_state_dict(checkpoint["average"])

    def save(self, folder: Path) -> None:
        """Writes a diffusers pipeline with the averaged UNet; no file exceeds 16 MB."""
        self.average.to(self.device)
        self.average.copy_to(self.unet.parameters())
        for network in (self.base.vae, self.unet):
            network.register_to_config(_name_or_path="")  # a path on this machine
        pipeline = StableDiffusionPipeline(
            vae=self.base.vae,
            unet=self.unet,
            text_encoder=self.base.text_encoder,
            tokenizer=self.base.tokenizer,
            scheduler=DDIMScheduler.from_config(self.base.noise_schedule.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.float16).save_pretrained(folder, max_shard_size="15MB")
        publish(folder)
