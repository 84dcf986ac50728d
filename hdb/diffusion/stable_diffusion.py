"""The frozen Stable Diffusion that is personalized: encode, add noise, predict noise, sample."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.schedulers import SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.diffusion.digest import compute_autoencoder_digest, compute_base_digest
from hdb.diffusion.folder import find_pipeline, read_pipeline, write_pipeline
from hdb.diffusion.original import read_checkpoint
from hdb.diffusion.transfer import to_device
from hdb.diffusion.word import LearnedWord
from hdb.prompts import IDENTIFIER, replace_identifier

PUBLISHED = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CHECKS = ("digest", "shapes")  # of weights that were made for a base: they are for this one, or for one like it


class StableDiffusion(nn.Module):
    """Autoencoder, text encoder and UNet of a Stable Diffusion 1.x pipeline; no weight of it ever has a gradient.

    Works on any pipeline folder with the classes of Stable Diffusion 1.x, whatever its size; `hdb.diffusion.family`
    tells which those are. LiDB layers (`hdb.lidb.adapter`) are put into `unet` and `text_encoder` from outside.
    """

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDPMScheduler | DDIMScheduler,
        name: str = "",
    ):
        super().__init__()
        self.vae, self.unet, self.text_encoder = vae, unet, text_encoder
        self.tokenizer = tokenizer
        self.noise_scheduler = DDPMScheduler.from_config(scheduler.config)
        self.name = name
        self.word = LearnedWord()  # nobody's, until one is bound
        self.original_weights: dict[str, torch.Tensor] | None = None  # set while UNet and text encoder are somebody's
        self.mixed: torch.dtype | None = None
        self.identifier = IDENTIFIER
        self.check = CHECKS[0]
        self.digest = compute_base_digest(vae, unet, text_encoder)
        self.autoencoder_digest = compute_autoencoder_digest(vae, resolution=self.resolution)
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        variant: str | None = None,
        config: str | Path | None = None,
    ) -> StableDiffusion:
        """Loads a diffusers pipeline folder, a hub id at a pinned revision, or a single file; safetensors only.

        Args:
            variant: of the weights, see `hdb.diffusion.folder.check_pipeline`.
            config: folder or hub id that describes a single file; None is Stable Diffusion 1.5.

        Raises:
            ValueError: the folder is missing, lacks one of the five parts or a tensor, or holds another family of
                models; `hdb.diffusion.folder` has the whole list.
        """
        if Path(path).is_file():
            return cls(**read_checkpoint(Path(path), config or PUBLISHED), name=Path(path).stem).to(dtype)
        folder = find_pipeline(path, revision=revision, variant=variant)
        name = Path(path).name if Path(path).is_dir() else str(path)
        name = name if revision is None else f"{name}@{revision}"
        # Rounded after the digest is taken: the same base is the same base in every precision.
        return cls(**read_pipeline(folder, variant=variant), name=name).to(dtype)

    def save(self, folder: str | Path, *, about: Mapping[str, str]) -> Path:
        """Writes a pipeline folder that diffusers loads, with the scheduler that `sample` uses; whole or not at all.

        Args:
            about: provenance, kept beside the parts.

        Raises:
            OSError: the folder is there already or could not be written.
        """
        return write_pipeline(
            folder,
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.sampling_scheduler(),
            about=about,
        )

    def check_compatible(self, digest: str, *, name: str, base_name: str) -> None:
        """Whether personal weights belong here: to this base or, where only shapes are checked, to one like it.

        Prints a line where they were made for another one. Its shapes are checked where the weights are put in.

        Args:
            digest: of the base that they were made for.
            of: what they are called.
            base: the name of the base that they were made for.

        Raises:
            ValueError: they were made for another base, and bases are checked by their digest.
        """
        if digest == self.digest:
            return
        if self.check == "digest":
            raise ValueError(
                f"{name} belongs to base {digest} ({base_name}), expected {self.digest}; base.check=shapes takes it to "
                "any base of the same shapes"
            )
        print(f"warning: {name} belongs to base {digest} ({base_name}) and is used on {self.digest} ({self.name})")

    @property
    def compatibility(self) -> dict[str, str]:
        """What `load_hypernet` compares a hypernetwork with."""
        return {"base_name": self.name, "base_digest": self.digest, "check": self.check}

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def prediction_type(self) -> str:
        """What the UNet answers: `epsilon`, the noise, or `v_prediction`, the velocity."""
        return self.noise_scheduler.config.prediction_type

    @property
    def resolution(self) -> int:
        """Side of a picture in pixels."""
        return self.unet.config.sample_size * self.downsampling

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    @property
    def num_train_timesteps(self) -> int:
        return self.noise_scheduler.config.num_train_timesteps

    def in_mixed_precision(self) -> AbstractContextManager[None]:
        """Computes in `mixed`, where that is set, as a Trainer of mixed precision does within its steps."""
        return nullcontext() if self.mixed is None else torch.autocast(self.device.type, dtype=self.mixed)

    def use_plain_attention(self) -> StableDiffusion:
        """Replaces fused attention by matrix products: a quarter faster to train on a CPU, the same values.

        Measured with a UNet of 6.8 M parameters on 8x8 latents, one core: 47 against 37 samples a second.
        """
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder.set_attn_implementation("eager")
        return self

    def use_less_memory(self) -> StableDiffusion:
        """Keeps the inputs of blocks for backward and not all that is inside; codes pictures one by one.

        The same values and gradients from about a third more arithmetic. LiDB layers run again in backward, so they
        must then be bound as they were (`LiDB.bind` persists, `LiDB.bound` ends with its block).
        """
        self.unet.enable_gradient_checkpointing()
        # The older name warns in transformers 5, the newer one is missing in 4. Reentrant checkpoints would lose the
        # gradient of theta, which reaches the layers as bound state and not as an input of the block.
        name = "activation_checkpointing_enable"
        enable = getattr(self.text_encoder, name, None) or self.text_encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.vae.enable_slicing()
        for module in self.modules():
            # Blocks of transformers, and of older diffusers, recompute in train mode only. These flags are the blocks'
            # own; their children, where dropout would be, stay in eval mode.
            if getattr(module, "gradient_checkpointing", False):
                module.training = True
        return self

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h8 w8"]:
        """Pictures in [0, 1] -> scaled latents (mean of the posterior), resized to the base's resolution if needed."""
        if images.shape[-2:] != (self.resolution, self.resolution):
            images = nn.functional.interpolate(
                images, size=(self.resolution, self.resolution), mode="bilinear", antialias=True, align_corners=False
            )
        pixels = images.to(self.device, self.dtype) * 2 - 1
        with self.in_mixed_precision():
            latents = self.vae.encode(pixels).latent_dist.mean
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "n c h8 w8"]) -> Float[Tensor, "n 3 h w"]:
        """Scaled latents -> pictures in [0, 1], float32. Differentiable, though the autoencoder is frozen."""
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pixels = self.vae.decode(latents.to(self.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def set_identifier(self, identifier: str | None) -> None:
        """Reads a word in the place of [V] from now on; None is [V] itself.

        Raises:
            ValueError: it is neither [V] nor a single token that the tokenizer knows.
        """
        if identifier not in (None, IDENTIFIER):
            ids = self.tokenizer(identifier, add_special_tokens=False, verbose=False).input_ids
            if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
                raise ValueError(
                    f"identifier is {identifier!r}, {len(ids)} tokens of {self.name or 'this base'}: expected "
                    f"{IDENTIFIER}, or a rare word that is one token, like sks"
                )
        self.identifier = identifier or IDENTIFIER

    @property
    def max_tokens(self) -> int:
        """How much of a prompt the text encoder reads, begin and end of text included."""
        return self.text_encoder.config.max_position_embeddings

    def num_tokens(self, prompt: str) -> int:
        """How long a prompt is, begin and end of text included."""
        return len(
            self.tokenizer(replace_identifier(prompt, self.identifier), truncation=False, verbose=False).input_ids
        )

    def tokenize(self, prompts: list[str]) -> Int[Tensor, "n l"]:
        """Token ids, padded and truncated to the text encoder's length."""
        length = {"padding": "max_length", "truncation": True, "max_length": self.max_tokens}
        return to_device(self.tokenizer(prompts, return_tensors="pt", **length).input_ids, self.device)

    def encode_prompts(self, prompts: list[str]) -> Float[Tensor, "n l d"]:
        """Prompts -> prompt_embeds. Differentiable through residuals or words that are bound to the text encoder."""
        if self.word.vectors is not None:
            return self.word.encode(prompts, tokenizer=self.tokenizer, text_encoder=self.text_encoder)
        spoken_prompts = [replace_identifier(prompt, self.identifier) for prompt in prompts]
        return self.text_encoder(self.tokenize(spoken_prompts)).last_hidden_state

    def add_noise(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        return self.noise_scheduler.add_noise(latents, noise, timesteps)

    def denoising_target(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """What `predict_noise` is trained to return: the noise, or the velocity where the base was trained on that.

        Source: Salimans and Ho, Progressive Distillation, arXiv 2202.00512, appendix D (velocity).
        """
        if self.prediction_type == "epsilon":
            return noise
        return self.noise_scheduler.get_velocity(latents, noise, timesteps)

    def predict_noise(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        prompt_embeds: Float[Tensor, "n l d"],
    ) -> Float[Tensor, "n c h w"]:
        """The UNet's answer, in the scheduler's prediction type. Some samplers stand between two noise levels."""
        return self.unet(noisy_latents.to(self.dtype), timesteps, prompt_embeds.to(self.dtype), return_dict=False)[0]

    def predict_clean(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        noise_pred: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c h w"]:
        """The latents without noise that follow from an answer of `predict_noise`.

            noise:    (noisy - √(1-ᾱ) · pred) / √ᾱ          velocity:    √ᾱ · noisy - √(1-ᾱ) · pred

        Source: Ho et al., arXiv 2006.11239, equation 15; Salimans and Ho, arXiv 2202.00512, appendix D.
        """
        signal = self.noise_scheduler.alphas_cumprod.to(noisy_latents)[timesteps.to(noisy_latents.device)]
        signal = signal[:, None, None, None]
        if self.prediction_type == "epsilon":
            return (noisy_latents - (1 - signal).sqrt() * noise_pred) / signal.sqrt()
        return signal.sqrt() * noisy_latents - (1 - signal).sqrt() * noise_pred

    def sampling_scheduler(self, name: str = "DDIMScheduler") -> SchedulerMixin:
        """A sampler by diffusers' name for it, over the noise levels that the base was trained on."""
        return getattr(diffusers, name).from_config({**self.noise_scheduler.config, "clip_sample": False})
