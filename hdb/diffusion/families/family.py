"""Family: what a family of bases consists of, how it reads prompts and predicts noise."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diffusers import DiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextConfig

from hdb.diffusion.condition import TextCondition
from hdb.files import ROOT
from hdb.lidb.names import is_text_encoder

if TYPE_CHECKING:
    from hdb.diffusion.stable_diffusion import StableDiffusion

Configs = Mapping[str, Mapping[str, Any]]
IS_EMPTY = "is_empty"  # among the tokens of prompts: which of them are empty

# Schedulers whose noise levels are those of DDPM, whatever sampler they are.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


class Family(ABC):
    """A family of bases with an autoencoder, a denoiser and CLIP text encoders.

    Attributes:
        versions: What its bases are called in messages.
        pipeline_class: Of diffusers; its name is the class in model_index.json.
        network_classes: Of the parts that have weights, by name.
        tokenizers: The tokenizer of each text encoder.
        components: The parts that are personalized, in the order of theta.
        sampler: The scheduler that pictures are sampled with by default, by its class name in diffusers.
        prediction_types: What the denoiser can predict.
        float32_parts: Parts that overflow in float16 and stay in float32 there.
        config_name: Of the published configuration in configs/, for example for `hdb inspect base=...`.
        hub_ids: Of published bases that have this configuration.
        original_prefixes: Of the tensors of each part in a single file in the original layout. Empty if such files are
            not supported.
        open_clip_encoders: Text encoders whose tensors such a file holds as OpenCLIP does.
        unsupported_inputs: Settings of denoisers that have inputs beside the timestep and the prompt, and which models
            have them.
    """

    versions: ClassVar[str]
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    network_classes: ClassVar[Mapping[str, type[nn.Module]]]
    tokenizers: ClassVar[Mapping[str, str]]
    components: ClassVar[tuple[str, ...]]
    sampler: ClassVar[str]
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction")
    float32_parts: ClassVar[tuple[str, ...]] = ()
    config_name: ClassVar[str]
    hub_ids: ClassVar[tuple[str, ...]] = ()
    original_prefixes: ClassVar[Mapping[str, str]] = {}
    open_clip_encoders: ClassVar[tuple[str, ...]] = ()
    unsupported_inputs: ClassVar[Mapping[str, str]] = {
        "time_cond_proj_dim": "distilled with the guidance scale as an input",
        "class_embed_type": "class-conditional",
        "num_class_embeds": "class-conditional",
        "encoder_hid_dim_type": "conditioned on images",
    }

    @abstractmethod
    def encode_tokens(self, base: StableDiffusion, tokens: Mapping[str, Tensor]) -> TextCondition:
        """Encodes tokenized prompts. Gradients flow to residuals bound to the text encoders, and to a bound word."""

    @abstractmethod
    def predict_noise(
        self,
        denoiser: nn.Module,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        condition: TextCondition,
    ) -> Float[Tensor, "n c h w"]:
        """The denoiser's prediction. Everything is in its precision and on its device."""

    @abstractmethod
    def check_text_widths(self, configs: Configs, *, name: str) -> None:
        """Raises ValueError if the denoiser does not read what the text encoders make."""

    def with_photo_sides(self, condition: TextCondition, photo_sides: Int[Tensor, " n"]) -> TextCondition:
        """The condition of crops that had such sides in their photos. Most families read no sizes."""
        return condition

    def check_original_layout(self, networks: Mapping[str, nn.Module]) -> None:
        """Raises ValueError if a base cannot be written as a single file in the original layout."""
        if not self.original_prefixes:
            raise ValueError(
                f"single files of Stable Diffusion {self.versions} are not supported: expected a folder in diffusers' "
                "layout"
            )

    def pipeline_settings(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the pipeline's class beside its parts that a base keeps, from its model_index.json."""
        return {}

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(self.tokenizers)

    @property
    def config_parts(self) -> tuple[str, ...]:
        """The parts that have a configuration."""
        return (*self.network_classes, "scheduler")

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders of a pipeline."""
        return (*self.network_classes, *self.tokenizers.values(), "scheduler")

    @property
    def config_folder(self) -> Path:
        """The folder of the published configuration."""
        return ROOT / "configs" / self.config_name.removesuffix("-config")

    def weights_file(self, part: str) -> str:
        """The name of the weights file of a part in a pipeline's folder."""
        return "model.safetensors" if is_text_encoder(part) else "diffusion_pytorch_model.safetensors"

    def read_configs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Reads the configurations of all parts, from a pipeline folder or a folder of configs alone (unet.json, ...).

        Raises:
            ValueError: One is missing or unreadable.
        """
        configs = {}
        for part in self.config_parts:
            path = find_config(folder, part)
            if path is None:
                raise ValueError(
                    f"{folder} lacks {part}/{config_file(part)} (or {part}.json): expected a base or its configs"
                )
            configs[part] = read_json(path)
        return configs

    def build_network(self, part: str, config: Mapping[str, Any]) -> nn.Module:
        """A part with random weights, from its configuration."""
        network_class = self.network_classes[part]
        if is_text_encoder(part):
            return network_class(CLIPTextConfig.from_dict(config))
        return network_class.from_config(config)

    def check_configs(self, configs: Configs, *, name: str) -> None:
        """Checks that a base is supported, by its configurations.

        Args:
            name: What the base is called in errors.

        Raises:
            ValueError: A part has another class, the UNet has further inputs or does not match the other parts in
                channels or widths, or the scheduler's noise levels are not those of DDPM.
        """
        for part, network_class in self.network_classes.items():
            config = configs[part]
            expected = network_class.__name__
            class_names = config.get("architectures") if is_text_encoder(part) else [config.get("_class_name")]
            for class_name in class_names or ():
                if class_name not in (None, expected):
                    raise ValueError(f"{part} of {name} is of the class {class_name}: expected {expected}")
        unet = configs["unet"]
        for key, description in self.unsupported_inputs.items():
            if unet.get(key) is not None:
                raise ValueError(
                    f"the UNet of {name} is {description} ({key} = {unet[key]!r}): expected one that has no {key}"
                )
        in_channels = unet.get("in_channels", 4)
        latent_channels = configs["vae"].get("latent_channels", 4)
        if in_channels != latent_channels or unet.get("out_channels", 4) != latent_channels:
            raise ValueError(
                f"the UNet of {name} takes {in_channels} channels and the autoencoder makes {latent_channels}: "
                "expected equal numbers (inpainting models are not supported)"
            )
        self.check_text_widths(configs, name=name)
        self._check_scheduler(configs["scheduler"], name)

    def _check_scheduler(self, scheduler: Mapping[str, Any], name: str) -> None:
        class_name = scheduler.get("_class_name", "DDPMScheduler")
        if class_name not in SCHEDULERS:
            raise ValueError(
                f"the scheduler of {name} is a {class_name}, whose noise levels are not DDPM's: expected one of "
                f"{', '.join(SCHEDULERS)}"
            )
        prediction_type = scheduler.get("prediction_type", "epsilon")
        if prediction_type not in self.prediction_types:
            expected = " or ".join(map(repr, self.prediction_types))
            raise ValueError(f"prediction_type of {name} is {prediction_type!r}: expected {expected}")


def config_file(part: str) -> str:
    """The name of a part's configuration in its folder."""
    return "scheduler_config.json" if part == "scheduler" else "config.json"


def find_config(folder: Path, part: str) -> Path | None:
    """The configuration of a part in a pipeline folder or a folder of configs alone, if there is one."""
    candidates = (folder / part / config_file(part), folder / f"{part}.json")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        ValueError: It is not one.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
