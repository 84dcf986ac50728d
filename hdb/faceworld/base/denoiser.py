"""DenoiserTraining: the UNet of the small Stable Diffusion, with 10 % empty captions and an average of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.diffusion.published import publish
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld.base import models
from hdb.faceworld.base.part import Part
from hdb.faceworld.base.views import Views
from hdb.losses import diffusion_loss

EMPTY_CAPTIONS = 0.1  # for classifier-free guidance


class DenoiserTraining(Part):
    """Denoising in the latents of a frozen autoencoder, told by the captions that a frozen text encoder read."""

    def __init__(
        self,
        views: Views,
        *,
        unet: UNet2DConditionModel,
        autoencoder: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        **part,
    ):
        super().__init__(views, **part)
        base = StableDiffusion(
            vae=autoencoder,
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=models.noise_scheduler(),
        )
        self._base = [base]  # in a list, so that the frozen parts stay out of checkpoints
        self.unet = base.unet.requires_grad_(True).train()
        self.average = EMAModel(self.unet.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75)
        self._latents: Tensor | None = None

    @property
    def base(self) -> StableDiffusion:
        return self._base[0]

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """Encodes every picture once: latents are 12 times smaller than pictures and never change."""
        self.base.to(self.device)
        if self.device.type == "cpu":
            self.base.use_plain_attention()
        self.average.to(self.device)
        chunks = torch.arange(len(self.views)).split(128)
        self._latents = torch.cat(
            [
                self.base.encode_images(self.views.pictures(flat).to(self.device)).half().cpu()
                for flat in tqdm(chunks, desc="encoding faceworld", leave=False)
            ]
        )

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        captions = self.views.captions_of(flat, generator)
        empty = torch.rand(len(captions), generator=generator) < EMPTY_CAPTIONS
        captions = ["" if drop else caption for drop, caption in zip(empty.tolist(), captions, strict=True)]
        latents = self._latents[flat].float()
        noise = torch.randn(latents.shape, generator=generator)
        # one timestep in each of n equal bands: the loss is less noisy than with independent draws
        bands = (torch.arange(len(flat)) + torch.rand(len(flat), generator=generator)) / len(flat)
        timesteps = (bands * self.base.num_train_timesteps).long()
        latents, noise, timesteps = (t.to(self.device) for t in (latents, noise, timesteps))
        with torch.no_grad():
            prompt_embeds = self.base.encode_prompts(captions)
        noise_pred = self.base.predict_noise(self.base.add_noise(latents, noise, timesteps), timesteps, prompt_embeds)
        target = self.base.denoising_target(latents, noise, timesteps)
        return {"loss": diffusion_loss(noise_pred, target)}

    def trained(self) -> torch.nn.Module:
        return self.unet

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average.step(self.unet.parameters())  # not in a hook after the batch: checkpoints are written before those

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average.load_state_dict(checkpoint["average"])

    def save(self, folder: Path) -> None:
        """Writes the whole pipeline with the averaged UNet in diffusers' layout; no file over 16 MB."""
        self.average.to(self.device)
        self.average.copy_to(self.unet.parameters())
        for network in (self.base.vae, self.unet):
            network.register_to_config(_name_or_path="")  # where it once lay on this machine
        pipeline = StableDiffusionPipeline(
            vae=self.base.vae,
            unet=self.unet,
            text_encoder=self.base.text_encoder,
            tokenizer=self.base.tokenizer,
            scheduler=DDIMScheduler.from_config(self.base.noise_scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.float16).save_pretrained(folder, max_shard_size="15MB")
        publish(folder)
