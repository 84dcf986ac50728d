"""StableDiffusion: the frozen base model: text encoder, autoencoder, UNet and scheduler behind one interface."""

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
from hdb.diffusion.options import CHECKS, DEFAULT_BASE
from hdb.diffusion.original import read_checkpoint
from hdb.diffusion.transfer import to_device
from hdb.diffusion.word import LearnedWord
from hdb.prompts import IDENTIFIER, replace_identifier


class StableDiffusion(nn.Module):
    """Autoencoder, text encoder and UNet of Stable Diffusion 1.x or 2.x. No parameter ever has a gradient.

    Works with any pipeline of these classes, whatever its size; `hdb.diffusion.family` checks which are supported. LiDB
    layers (`hdb.lidb.adapter`) are put into `unet` and `text_encoder` from outside.

    Args:
        scheduler: Sets the noise levels and the prediction type.
        name: For messages.

    Attributes:
        digest: Identifies the base; stored with all personal weights made for it.
        autoencoder_digest: Identifies the autoencoder; stored with cached latents.
        identifier: What the text encoder reads in place of [V].
        check: One of CHECKS.
        autocast_dtype: Of autocast while sampling and encoding, or None.
        word: The learned embedding of the identifier, while one is bound.
        original_weights: The base's own weights while those of UNet and text encoder are exchanged, else None.
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
        self.vae = vae
        self.unet = unet
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.noise_scheduler = DDPMScheduler.from_config(scheduler.config)
        self.name = name
        self.identifier = IDENTIFIER
        self.check = CHECKS[0]
        self.autocast_dtype: torch.dtype | None = None
        self.word = LearnedWord()
        self.original_weights: dict[str, torch.Tensor] | None = None
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
        """Loads a diffusers folder, a hub id or a single file in the original layout. Reads safetensors only.

        Args:
            path: The folder, hub id or file.
            dtype: Of the weights.
            revision: Branch, tag or commit of a hub id.
            variant: Of the weights, as in `hdb.diffusion.folder.check_pipeline`.
            config: Folder or hub id that describes a single file. None is Stable Diffusion 1.5.

        Raises:
            ValueError: It is missing, incomplete, damaged or of another family of models, as `read_pipeline` and
                `read_checkpoint` say.
        """
        # Cast after the digest is computed from float32 weights, so that it is the same in every precision.
        if Path(path).is_file():
            return cls(**read_checkpoint(Path(path), config or DEFAULT_BASE), name=Path(path).stem).to(dtype)
        folder = find_pipeline(path, revision=revision, variant=variant)
        name = Path(path).name if Path(path).is_dir() else str(path)
        if revision is not None:
            name = f"{name}@{revision}"
        return cls(**read_pipeline(folder, variant=variant), name=name).to(dtype)

    def save(self, folder: str | Path, *, metadata: Mapping[str, str]) -> Path:
        """Writes a pipeline folder that diffusers loads, with a DDIM scheduler, atomically.

        Args:
            metadata: Provenance, written beside the parts.

        Raises:
            OSError: The folder exists already or could not be written.
        """
        return write_pipeline(
            folder,
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.sampling_scheduler(),
            metadata=metadata,
        )

    def check_compatible(self, digest: str, *, name: str, base_name: str) -> None:
        """Checks that personal weights were made for this base, or warns if `check` is `shapes`.

        Shapes themselves are checked when the weights are bound.

        Args:
            digest: Of the base that they were made for.
            name: What the weights are called in the error.
            base_name: Name of the base that they were made for.

        Raises:
            ValueError: They were made for another base, and `check` is `digest`.
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
        """The arguments of `hdb.hypernet.trained.load_hypernet` that say which base its predictions are for."""
        return {"base_name": self.name, "base_digest": self.digest, "check": self.check}

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: `epsilon`, the noise, or `v_prediction`, the velocity."""
        return self.noise_scheduler.config.prediction_type

    @property
    def resolution(self) -> int:
        """Side of a picture in pixels."""
        return self.unet.config.sample_size * self.downsampling

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    @property
    def num_train_timesteps(self) -> int:
        return self.noise_scheduler.config.num_train_timesteps

    def autocast(self) -> AbstractContextManager[None]:
        """Autocast to `autocast_dtype`, if that is set, as a mixed-precision Trainer does in its steps."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def use_plain_attention(self) -> StableDiffusion:
        """Replaces fused attention by matrix products, which is a quarter faster to train on a CPU.

        Measured with a UNet of 6.8 M parameters on 8x8 latents, one core: 47 against 37 samples per second.
        """
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder.set_attn_implementation("eager")
        return self

    def use_less_memory(self) -> StableDiffusion:
        """Enables gradient checkpointing, and slicing in the autoencoder. A third slower, with the same values.

        Checkpointing runs LiDB layers again in the backward pass, when the same residuals must be bound: `LiDB.bind`
        persists, and within `LiDB.bound` the backward pass must be called inside the block.
        """
        self.unet.enable_gradient_checkpointing()
        # transformers 5 deprecates the older name, transformers 4 lacks the newer one. Reentrant checkpointing would
        # lose the gradient of theta, which is bound to the layers and no input of the checkpointed block.
        name = "activation_checkpointing_enable"
        enable_checkpointing = getattr(self.text_encoder, name, None) or self.text_encoder.gradient_checkpointing_enable
        enable_checkpointing({"use_reentrant": False})
        self.vae.enable_slicing()
        for module in self.modules():
            # Blocks of transformers, and of older diffusers, checkpoint in train mode only. Their children, such as
            # dropout, stay in eval mode.
            if getattr(module, "gradient_checkpointing", False):
                module.training = True
        return self

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h8 w8"]:
        """Encodes pictures in [0, 1] to scaled latents: the posterior's mean. Resizes to the base's resolution."""
        size = (self.resolution, self.resolution)
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        pixels = images.to(self.device, self.dtype) * 2 - 1
        with self.autocast():
            latents = self.vae.encode(pixels).latent_dist.mean
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "n c h8 w8"]) -> Float[Tensor, "n 3 h w"]:
        """Decodes scaled latents to pictures in [0, 1], float32. Gradients flow through it."""
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pixels = self.vae.decode(latents.to(self.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def set_identifier(self, identifier: str | None) -> None:
        """Sets the word that the text encoder reads in place of [V]. None is [V] itself.

        Raises:
            ValueError: It is neither [V] nor a single known token.
        """
        if identifier is None:
            identifier = IDENTIFIER
        if identifier != IDENTIFIER:
            token_ids = self.tokenizer(identifier, add_special_tokens=False, verbose=False).input_ids
            if len(token_ids) != 1 or token_ids[0] == self.tokenizer.unk_token_id:
                raise ValueError(
                    f"identifier is {identifier!r}, {len(token_ids)} tokens of {self.name or 'this base'}: expected "
                    f"{IDENTIFIER}, or a rare word that is one token, like sks"
                )
        self.identifier = identifier

    @property
    def max_tokens(self) -> int:
        """Length of the token sequence that the text encoder reads, begin and end of text included."""
        return self.text_encoder.config.max_position_embeddings

    def num_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, begin and end of text included."""
        prompt = replace_identifier(prompt, self.identifier)
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    def tokenize(self, prompts: list[str]) -> Int[Tensor, "n l"]:
        """Token ids, padded and truncated to `max_tokens`, on the base's device."""
        input_ids = self.tokenizer(
            prompts, return_tensors="pt", padding="max_length", truncation=True, max_length=self.max_tokens
        ).input_ids
        return to_device(input_ids, self.device)

    def encode_prompts(self, prompts: list[str]) -> Float[Tensor, "n l d"]:
        """Encodes prompts to prompt_embeds. Gradients flow to bound residuals and to a bound word."""
        if self.word.vectors is not None:
            return self.word.encode(prompts, tokenizer=self.tokenizer, text_encoder=self.text_encoder)
        prompts = [replace_identifier(prompt, self.identifier) for prompt in prompts]
        return self.text_encoder(self.tokenize(prompts)).last_hidden_state

    def add_noise(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        return self.noise_scheduler.add_noise(latents, noise, timesteps)

    def denoising_target(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """The target of `predict_noise` in training: the noise or the velocity, by the prediction type.

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
        """The UNet's prediction: noise or velocity, by the prediction type.

        Args:
            timesteps: Some samplers use fractional ones.
        """
        return self.unet(noisy_latents.to(self.dtype), timesteps, prompt_embeds.to(self.dtype), return_dict=False)[0]

    def predict_clean(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        noise_pred: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c h w"]:
        """The clean latents that a prediction of `predict_noise` implies.

            noise:    (noisy - √(1-ᾱ) · pred) / √ᾱ          velocity:    √ᾱ · noisy - √(1-ᾱ) · pred

        Source: Ho et al., arXiv 2006.11239, equation 15; Salimans and Ho, arXiv 2202.00512, appendix D.
        """
        alphas_cumprod = self.noise_scheduler.alphas_cumprod.to(noisy_latents)
        alpha_bar = alphas_cumprod[timesteps.to(noisy_latents.device)][:, None, None, None]
        if self.prediction_type == "epsilon":
            return (noisy_latents - (1 - alpha_bar).sqrt() * noise_pred) / alpha_bar.sqrt()
        return alpha_bar.sqrt() * noisy_latents - (1 - alpha_bar).sqrt() * noise_pred

    def sampling_scheduler(self, name: str = "DDIMScheduler") -> SchedulerMixin:
        """A sampler by its class name in diffusers, with the noise levels that the base was trained on."""
        return getattr(diffusers, name).from_config({**self.noise_scheduler.config, "clip_sample": False})
