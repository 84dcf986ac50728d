"""Which models are supported as bases: Stable Diffusion 1.x and 2.x, recognized by their configuration files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Configs = Mapping[str, Mapping[str, Any]]

PARTS = ("unet", "vae", "text_encoder", "scheduler")
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
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
# UNet settings for inputs beside the timestep and the prompt, and the models that have them.
_UNSUPPORTED_INPUTS = {
    "time_cond_proj_dim": "distilled with the guidance scale as an input",
    "class_embed_type": "class-conditional",
    "num_class_embeds": "class-conditional",
    "addition_embed_type": "conditioned on more than the prompt, as Stable Diffusion XL is",
    "encoder_hid_dim_type": "conditioned on images",
}


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads the configurations of all parts, from a pipeline folder or a folder of configs alone (unet.json, ...).

    Raises:
        ValueError: One is missing or unreadable.
    """
    configs = {}
    for part in PARTS:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        candidates = (folder / part / name, folder / f"{part}.json")
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise ValueError(f"{folder} lacks {part}/{name} (or {part}.json): expected a base or its configs")
        configs[part] = read_json(path)
    return configs


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        ValueError: It is not one.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None


def check_index(folder: Path) -> None:
    """Raises ValueError if a folder's model_index.json is missing or of another pipeline class."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no diffusers pipeline folder: expected a file model_index.json in it")
    class_name = read_json(index).get("_class_name")
    if class_name != "StableDiffusionPipeline":
        raise ValueError(
            f"{folder} holds a {class_name}: expected a StableDiffusionPipeline (1.x or 2.x); models for inpainting "
            "and of other families are not supported"
        )


def check_configs(configs: Configs, *, name: str) -> None:
    """Checks that a base is supported, by its configurations.

    Args:
        name: What the base is called in errors.

    Raises:
        ValueError: A part has another class, the UNet has further inputs or does not match the other parts in channels
            or widths, or the scheduler's noise levels are not those of DDPM.
    """
    for part, expected in _CLASSES.items():
        config = configs[part]
        class_names = config.get("architectures") if part == "text_encoder" else [config.get("_class_name")]
        for class_name in class_names or ():
            if class_name not in (None, expected):
                raise ValueError(f"{part} of {name} is of the class {class_name}: expected {expected}")
    unet = configs["unet"]
    for key, description in _UNSUPPORTED_INPUTS.items():
        if unet.get(key) is not None:
            raise ValueError(
                f"the UNet of {name} is {description} ({key} = {unet[key]!r}): expected one that has no {key}"
            )
    in_channels = unet.get("in_channels", 4)
    latent_channels = configs["vae"].get("latent_channels", 4)
    if in_channels != latent_channels or unet.get("out_channels", 4) != latent_channels:
        raise ValueError(
            f"the UNet of {name} takes {in_channels} channels and the autoencoder makes {latent_channels}: expected "
            "equal numbers (inpainting models are not supported)"
        )
    text_width = configs["text_encoder"].get("hidden_size", 512)
    attention_width = unet.get("cross_attention_dim", 1280)
    if attention_width != text_width:
        raise ValueError(
            f"the UNet of {name} reads text embeddings {attention_width} wide, the text encoder makes {text_width}"
        )
    _check_scheduler(configs["scheduler"], name)


def _check_scheduler(scheduler: Mapping[str, Any], name: str) -> None:
    class_name = scheduler.get("_class_name", "DDPMScheduler")
    if class_name not in SCHEDULERS:
        raise ValueError(
            f"the scheduler of {name} is a {class_name}, whose noise levels are not DDPM's: expected one of "
            f"{', '.join(SCHEDULERS)}"
        )
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type of {name} is {prediction_type!r}: expected 'epsilon' or 'v_prediction'")
