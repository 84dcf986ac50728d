"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, whose last hidden states the UNet reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.families.family import Configs, Family

if TYPE_CHECKING:
    from hdb.diffusion.stable_diffusion import StableDiffusion


class StableDiffusion1(Family):
    """Stable Diffusion 1.x and 2.x, and their finetunes."""

    versions = "1.x or 2.x"
    pipeline_class = StableDiffusionPipeline
    network_classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    tokenizers = {"text_encoder": "tokenizer"}
    components = ("unet", "text_encoder")
    sampler = "DDIMScheduler"
    config_name = "sd15-config"
    hub_ids = ("stable-diffusion-v1-5/stable-diffusion-v1-5",)
    original_prefixes = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.",
    }
    unsupported_inputs = {
        **Family.unsupported_inputs,
        "addition_embed_type": "conditioned on more than the prompt, as Stable Diffusion XL is",
    }

    def encode_tokens(self, base: StableDiffusion, tokens: Mapping[str, Tensor]) -> TextCondition:
        (output,) = base.run_text_encoders(tokens)
        return TextCondition(output.last_hidden_state)

    def predict_noise(
        self,
        denoiser: nn.Module,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        condition: TextCondition,
    ) -> Float[Tensor, "n c h w"]:
        return denoiser(noisy_latents, timesteps, condition.embeds, return_dict=False)[0]

    def check_text_widths(self, configs: Configs, *, name: str) -> None:
        text_width = configs["text_encoder"].get("hidden_size", 512)
        attention_width = configs["unet"].get("cross_attention_dim", 1280)
        if attention_width != text_width:
            raise ValueError(
                f"the UNet of {name} reads text embeddings {attention_width} wide, the text encoder makes {text_width}"
            )

    def check_original_layout(self, networks: Mapping[str, nn.Module]) -> None:
        text_width = networks["text_encoder"].config.hidden_size
        if text_width > 768:  # OpenCLIP's of 2.x, of which diffusers' folders lack the last layer
            raise ValueError(
                f"a text encoder {text_width} wide has another form in single files: expected that of 1.x, or a folder"
            )

    def pipeline_settings(self, index: dict[str, Any]) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
