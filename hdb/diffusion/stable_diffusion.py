"""StableDiffusion: the frozen base model: text encoders, autoencoder, UNet and noise schedule behind one interface."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.schedulers import SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer
from transformers.utils import ModelOutput

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.digest import compute_autoencoder_digest, compute_base_digest
from hdb.diffusion.families.family import IS_EMPTY, Family
from hdb.diffusion.folder import find_pipeline, read_pipeline, write_pipeline
from hdb.diffusion.graphs import Graphs, Tensors
from hdb.diffusion.idle import activate_timesteps_once, leave_out_divisions
from hdb.diffusion.noise_schedule import NoiseSchedule
from hdb.diffusion.options import CHECKS
from hdb.diffusion.original import read_checkpoint
from hdb.diffusion.transfer import to_device
from hdb.diffusion.word import IS_WORD, LearnedWord, encode_with_words, tokenize_with_placeholder
from hdb.prompts import IDENTIFIER, remove_identifier, replace_identifier


class StableDiffusion(nn.Module):
    """Autoencoder, text encoders and UNet of a Stable Diffusion. No parameter ever has a gradient.

    What differs between Stable Diffusion 1.x and XL is said by its family (`hdb.diffusion.families`). A part is an
    attribute under its name in diffusers' pipelines: `unet`, `vae`, `text_encoder`, `tokenizer`, ... LiDB layers
    (`hdb.lidb.adapter`) are put into its `components` from outside.

    Args:
        parts: Networks, tokenizers and scheduler by name. The scheduler sets noise levels and prediction type.
        family: That the parts are of.
        name: For messages.
        pipeline_settings: Further arguments of the pipeline's class, as `Family.pipeline_settings` returns them.

    Attributes:
        noise_schedule: The noise levels, on the device of the base.
        digest: Identifies the base; stored with all personal weights made for it.
        autoencoder_digest: Identifies the autoencoder; stored with cached latents.
        identifier: What the text encoder reads in place of [V].
        check: One of CHECKS.
        autocast_dtype: Of autocast while sampling and encoding, or None.
        graphs: Work on this base that is held by CUDA graphs.
        memory_is_low: Whether `use_less_memory` was called.
        word: The learned embedding of the identifier, while one is bound.
        stored_dtypes: The precision of each network's weights in the files that it was read from.
        original_weights: The base's own weights while those of UNet and text encoder are exchanged, else None.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        *,
        family: Family,
        name: str = "",
        pipeline_settings: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.family = family
        for part in (*family.network_classes, *family.tokenizers.values()):
            setattr(self, part, parts[part])
        self.noise_schedule = NoiseSchedule(parts["scheduler"])
        self.pipeline_settings = dict(family.pipeline_settings({}) if pipeline_settings is None else pipeline_settings)
        self.name = name
        self.identifier = IDENTIFIER
        self.check = CHECKS[0]
        self.autocast_dtype: torch.dtype | None = None
        self.graphs = Graphs()
        self.memory_is_low = False
        self.word = LearnedWord()
        self.stored_dtypes: dict[str, torch.dtype] = {}
        self.original_weights: dict[str, torch.Tensor] | None = None
        self.digest = compute_base_digest(self.vae, self.components)
        self.autoencoder_digest = compute_autoencoder_digest(self.vae, resolution=self.resolution)
        for network in self.networks.values():
            leave_out_divisions(network)
        activate_timesteps_once(self.unet)
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
            config: Folder or hub id that describes a single file. None is the published base of its family.

        Raises:
            ValueError: It is missing, incomplete, damaged or of another family of models, as `read_pipeline` and
                `read_checkpoint` say.
        """
        if Path(path).is_file():
            name = Path(path).stem
            pipeline = read_checkpoint(Path(path), config)
        else:
            folder = find_pipeline(path, revision=revision, variant=variant)
            name = Path(path).name if Path(path).is_dir() else str(path)
            if revision is not None:
                name = f"{name}@{revision}"
            pipeline = read_pipeline(folder, variant=variant)
        base = cls(pipeline.parts, family=pipeline.family, name=name, pipeline_settings=pipeline.settings)
        base.stored_dtypes = pipeline.stored_dtypes
        # Cast after the digest is computed from float32 weights, so that it is the same in every precision.
        return base.cast(dtype)

    def cast(self, dtype: torch.dtype) -> StableDiffusion:
        """Casts all weights, in float16 without the parts that overflow there."""
        self.to(dtype)
        if dtype == torch.float16:
            for part in self.family.float32_parts:
                getattr(self, part).float()
                print(f"note: {part} of {self.name} overflows in float16 and stays in float32")
        return self

    def cast_as_stored(self) -> StableDiffusion:
        """Casts networks that are in float32 to the precision of their files, so that they are written as large."""
        for part, network in self.networks.items():
            if network.dtype == torch.float32:
                network.to(self.stored_dtypes.get(part, torch.float32))
        return self

    def save(self, folder: str | Path, *, metadata: Mapping[str, str]) -> Path:
        """Writes a pipeline folder that diffusers loads, with the family's sampler, atomically.

        Args:
            metadata: Provenance, written beside the parts.

        Raises:
            OSError: The folder exists already or could not be written.
        """
        tokenizers = {part: getattr(self, part) for part in self.family.tokenizers.values()}
        return write_pipeline(
            folder,
            {**self.networks, **tokenizers, "scheduler": self.sampling_scheduler()},
            family=self.family,
            settings=self.pipeline_settings,
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
    def networks(self) -> dict[str, nn.Module]:
        """The parts that have weights."""
        return {part: getattr(self, part) for part in self.family.network_classes}

    @property
    def components(self) -> dict[str, nn.Module]:
        """The parts that are personalized, in the order of theta."""
        return {part: getattr(self, part) for part in self.family.components}

    @property
    def text_encoders(self) -> list[tuple[CLIPTokenizer, nn.Module]]:
        """Each text encoder with its tokenizer."""
        return [
            (getattr(self, tokenizer), getattr(self, encoder)) for encoder, tokenizer in self.family.tokenizers.items()
        ]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: `epsilon`, the noise, or `v_prediction`, the velocity."""
        return self.noise_schedule.prediction_type

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
        return self.noise_schedule.num_train_timesteps

    def autocast(self) -> AbstractContextManager[None]:
        """Autocast to `autocast_dtype`, if that is set, as a mixed-precision Trainer does in its steps."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def weights_autocast(self, network: nn.Module) -> AbstractContextManager[None]:
        """No autocast for a network whose weights are in half precision already.

        Autocast would cast the inputs, weights and gradients of every norm to float32 and back: a thousand of the 6,400
        kernels of a finetuning step of Stable Diffusion 1.5. Norms compute in float32 inside, whatever they are given.
        """
        weight = next(network.parameters())
        device_type = weight.device.type
        if device_type == "meta" or weight.dtype == torch.float32 or not torch.is_autocast_enabled(device_type):
            return nullcontext()
        return torch.autocast(device_type, enabled=False)

    def autoencoder_autocast(self) -> AbstractContextManager[None]:
        """No autocast to float16 for an autoencoder that overflows in it."""
        device_type = self.device.type
        if "vae" not in self.family.float32_parts or device_type == "meta":  # which has no autocast
            return nullcontext()
        is_float16 = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16
        return torch.autocast(device_type, enabled=False) if is_float16 else nullcontext()

    def use_plain_attention(self) -> StableDiffusion:
        """Replaces fused attention by matrix products, which is a quarter faster to train on a CPU.

        Measured with a UNet of 6.8 M parameters on 8x8 latents, one core: 47 against 37 samples per second.
        """
        self.unet.set_attn_processor(AttnProcessor())
        for _, text_encoder in self.text_encoders:
            text_encoder.set_attn_implementation("eager")
        return self

    def use_less_memory(self) -> StableDiffusion:
        """Enables gradient checkpointing, and slicing in the autoencoder. A third slower, with the same values.

        Checkpointing runs LiDB layers again in the backward pass, when the same residuals must be bound: `LiDB.bind`
        persists, and within `LiDB.bound` the backward pass must be called inside the block.
        """
        self.memory_is_low = True
        self.unet.enable_gradient_checkpointing()
        # transformers 5 deprecates the older name, transformers 4 lacks the newer one. Reentrant checkpointing would
        # lose the gradient of theta, which is bound to the layers and no input of the checkpointed block.
        name = "activation_checkpointing_enable"
        for _, text_encoder in self.text_encoders:
            enable_checkpointing = getattr(text_encoder, name, None) or text_encoder.gradient_checkpointing_enable
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
        pixels = images.to(self.device, self.vae.dtype) * 2 - 1
        with self.autocast(), self.autoencoder_autocast(), self.weights_autocast(self.vae):
            latents = self.vae.encode(pixels).latent_dist.mean
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "n c h8 w8"]) -> Float[Tensor, "n 3 h w"]:
        """Decodes scaled latents to pictures in [0, 1], float32. Gradients flow through it."""
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        with self.autoencoder_autocast(), self.weights_autocast(self.vae):
            pixels = self.vae.decode(latents.to(self.vae.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def set_identifier(self, identifier: str | None) -> None:
        """Sets the word that the text encoders read in place of [V]. None is [V] itself.

        Raises:
            ValueError: It is neither [V] nor a single known token.
        """
        if identifier is None:
            identifier = IDENTIFIER
        if identifier != IDENTIFIER:
            for tokenizer, _ in self.text_encoders:
                token_ids = tokenizer(identifier, add_special_tokens=False, verbose=False).input_ids
                if len(token_ids) != 1 or token_ids[0] == tokenizer.unk_token_id:
                    raise ValueError(
                        f"identifier is {identifier!r}, {len(token_ids)} tokens of {self.name or 'this base'}: "
                        f"expected {IDENTIFIER}, or a rare word that is one token, like sks"
                    )
        self.identifier = identifier

    @property
    def max_tokens(self) -> int:
        """Length of the token sequence that the text encoders read, begin and end of text included."""
        return min(encoder.config.max_position_embeddings for _, encoder in self.text_encoders)

    def num_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, begin and end of text included."""
        prompt = replace_identifier(prompt, self.identifier)
        return max(
            len(tokenizer(prompt, truncation=False, verbose=False).input_ids) for tokenizer, _ in self.text_encoders
        )

    def split_words(self, prompt: str) -> list[str]:
        """Words of a prompt that a text encoder reads in pieces, as its vocabulary lacks them.

        The identifier and numbers, which CLIP always reads digit by digit, are left out.
        """
        words = dict.fromkeys(re.findall(r"[^\W\d_]+", remove_identifier(prompt).lower()))
        return [word for word in words if word != self.identifier.lower() and not self._is_known(word)]

    def _is_known(self, word: str) -> bool:
        for tokenizer, _ in self.text_encoders:
            token_ids = tokenizer(word, add_special_tokens=False, verbose=False).input_ids
            if len(token_ids) > 1 or token_ids == [tokenizer.unk_token_id]:
                return False
        return True

    def tokenize(self, prompts: list[str], tokenizer: CLIPTokenizer | None = None) -> Int[Tensor, "n l"]:
        """Token ids, padded and truncated to `max_tokens`, on the base's device.

        Args:
            tokenizer: None is that of the first text encoder.
        """
        input_ids = (tokenizer or self.tokenizer)(
            prompts, return_tensors="pt", padding="max_length", truncation=True, max_length=self.max_tokens
        ).input_ids
        return to_device(input_ids, self.device)

    def encode_prompts(self, prompts: Sequence[str]) -> TextCondition:
        """Encodes prompts. Gradients flow to bound residuals and to a bound word."""
        return self.encode_tokens(self.tokenize_prompts(prompts, has_word=self.word.vectors is not None))

    def tokenize_prompts(self, prompts: Sequence[str], *, has_word: bool = False) -> dict[str, Tensor]:
        """What `encode_tokens` reads of n prompts, on the base's device.

        Returns:
            The input ids (n, l) by the name of their tokenizer, and which prompts are empty (n,). With a learned word
            also its places (n, l), whose ids mean nothing.

        Args:
            has_word: A learned word is read in place of the identifier.
        """
        tokens = {IS_EMPTY: to_device(torch.tensor([prompt == "" for prompt in prompts]), self.device)}
        replaced = [replace_identifier(prompt, self.identifier) for prompt in prompts]
        for text_encoder, name in self.family.tokenizers.items():
            tokenizer = getattr(self, name)
            if not has_word:
                tokens[name] = self.tokenize(replaced, tokenizer)
                continue
            length = getattr(self, text_encoder).config.max_position_embeddings
            ids, is_word = tokenize_with_placeholder(prompts, tokenizer, length=length)
            tokens[name] = to_device(ids, self.device)
            tokens[f"{name}{IS_WORD}"] = to_device(is_word, self.device)
        return tokens

    def encode_tokens(self, tokens: Tensors) -> TextCondition:
        """Encodes prompts from `tokenize_prompts`: a function of tensors alone, which a CUDA graph can hold."""
        with self.weights_autocast(self.text_encoder):
            return self.family.encode_tokens(self, tokens)

    def run_text_encoders(self, tokens: Tensors, *, output_hidden_states: bool = False) -> list[ModelOutput]:
        """What each text encoder makes of tokenized prompts, with the word that is bound.

        Args:
            output_hidden_states: Also of the layers before the last one.
        """
        text_encoders = {name: getattr(self, encoder) for encoder, name in self.family.tokenizers.items()}
        if self.word.vectors is not None:
            return encode_with_words(
                tokens, self.word.vectors, text_encoders, output_hidden_states=output_hidden_states
            )
        return [
            text_encoder(tokens[name], output_hidden_states=output_hidden_states)
            for name, text_encoder in text_encoders.items()
        ]

    def add_noise(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        return self.noise_schedule.add_noise(latents, noise, timesteps)

    def denoising_target(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """The target of `predict_noise` in training: the noise or the velocity, by the prediction type."""
        if self.prediction_type == "epsilon":
            return noise
        return self.noise_schedule.velocity(latents, noise, timesteps)

    def predict_noise(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        condition: TextCondition,
    ) -> Float[Tensor, "n c h w"]:
        """The UNet's prediction: noise or velocity, by the prediction type.

        Args:
            timesteps: Some samplers use fractional ones.
        """
        dtype = self.dtype
        with self.weights_autocast(self.unet):
            return self.family.predict_noise(self.unet, noisy_latents.to(dtype), timesteps, condition.to(dtype))

    def predict_clean(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        noise_pred: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c h w"]:
        """The clean latents that a prediction of `predict_noise` implies."""
        return self.noise_schedule.clean(noisy_latents, noise_pred, timesteps)

    def sampling_scheduler(self, name: str | None = None) -> SchedulerMixin:
        """A sampler with the noise levels that the base was trained on.

        Args:
            name: Of its class in diffusers. None is the family's default.
        """
        return self.noise_schedule.sampler(name or self.family.sampler)

    @property
    def word_size(self) -> int:
        """Length of a learned word: its token embeddings for all text encoders."""
        return sum(encoder.get_input_embeddings().embedding_dim for _, encoder in self.text_encoders)
