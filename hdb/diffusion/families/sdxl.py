"""Stable Diffusion XL: two text encoders, a pooled text embedding, and the sizes of the picture as an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.families.family import IS_EMPTY, Configs, Family

if TYPE_CHECKING:
    from hdb.diffusion.stable_diffusion import StableDiffusion

NUM_TIME_IDS = 6  # original height and width, top and left of the crop, target height and width


class StableDiffusionXL(Family):
    """Stable Diffusion XL base and its finetunes.

        embeds = penultimate hidden states of both text encoders, side by side        (n, l, 768 + 1280)
        pooled = projected text embedding of the second one                           (n, 1280)
        time_ids = original size, crop and target size in pixels                      (n, 6)

    The last layer of the first text encoder has slots, as in other programs' LoRA files, but takes no part: its
    residuals stay at their start. The published autoencoder overflows in float16, so it stays in float32 there.

    The UNet was trained with the size that a picture had before it was resized, so that enlarged ones do not teach it
    to blur, and with the upper left corner of its crop. In training a face crop therefore brings its side in the photo
    (`with_photo_sides`), where that is known: a face of 300 px is blurred at 1024 px, and the blur belongs to the size
    and not to the person. It counts as uncropped, (0, 0), because its framing is meant to be learned. Without a known
    side, and in sampling, the original size is the target's.

    Source: Podell et al., SDXL, sections 2.1 and 2.2, https://arxiv.org/abs/2307.01952
    """

    versions = "XL base"
    pipeline_class = StableDiffusionXLPipeline
    network_classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    tokenizers = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    components = ("unet", "text_encoder", "text_encoder_2")
    sampler = "EulerDiscreteScheduler"
    float32_parts = ("vae",)
    config_name = "sdxl-config"
    hub_ids = ("stabilityai/stable-diffusion-xl-base-1.0",)
    original_prefixes = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    }
    open_clip_encoders = ("text_encoder_2",)

    def encode_tokens(self, base: StableDiffusion, tokens: Mapping[str, Tensor]) -> TextCondition:
        """Encodes prompts for pictures that were neither resized nor cropped.

        Empty prompts become zeros where the pipeline has `force_zeros_for_empty_prompt`, as for the published base.
        """
        outputs = base.run_text_encoders(tokens, output_hidden_states=True)
        embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1].text_embeds
        if base.pipeline_settings["force_zeros_for_empty_prompt"]:
            is_empty = tokens[IS_EMPTY]
            embeds = embeds.masked_fill(is_empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(is_empty[:, None], 0.0)
        # Filled on the device: a tensor of Python numbers would be copied there, which a CUDA graph cannot hold.
        size = pooled.new_full((len(pooled), 2), base.resolution, dtype=torch.float32)
        return TextCondition(embeds, pooled, torch.cat([size, torch.zeros_like(size), size], dim=1))

    def with_photo_sides(self, condition: TextCondition, photo_sides: Int[Tensor, " n"]) -> TextCondition:
        sides = photo_sides.to(condition.time_ids)[:, None]
        return replace(condition, time_ids=torch.cat([sides, sides, condition.time_ids[:, 2:]], dim=1))

    def predict_noise(
        self,
        denoiser: nn.Module,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        condition: TextCondition,
    ) -> Float[Tensor, "n c h w"]:
        added = {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
        return denoiser(noisy_latents, timesteps, condition.embeds, added_cond_kwargs=added, return_dict=False)[0]

    def check_text_widths(self, configs: Configs, *, name: str) -> None:
        unet = configs["unet"]
        if unet.get("addition_embed_type") != "text_time":
            raise ValueError(
                f"addition_embed_type of the UNet of {name} is {unet.get('addition_embed_type')!r}: expected "
                "'text_time', as Stable Diffusion XL has it"
            )
        text_width = sum(configs[part].get("hidden_size", 512) for part in self.text_encoders)
        if unet.get("cross_attention_dim", 1280) != text_width:
            raise ValueError(
                f"the UNet of {name} reads text embeddings {unet.get('cross_attention_dim', 1280)} wide, the text "
                f"encoders make {text_width}"
            )
        added_width = unet.get("projection_class_embeddings_input_dim")
        pooled_width = configs["text_encoder_2"].get("projection_dim", 512)
        expected = NUM_TIME_IDS * (unet.get("addition_time_embed_dim") or 0) + pooled_width
        if added_width != expected:
            raise ValueError(
                f"the UNet of {name} reads {added_width} numbers beside the timestep, sizes and pooled text are "
                f"{expected}; refiners are not supported"
            )

    def pipeline_settings(self, index: dict[str, Any]) -> dict[str, Any]:
        return {"force_zeros_for_empty_prompt": index.get("force_zeros_for_empty_prompt", True)}
