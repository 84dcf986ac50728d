"""Which models are bases: Stable Diffusion 1.x and 2.x, told by their configurations alone, others refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Configs = Mapping[str, Mapping[str, Any]]

PARTS = ("unet", "vae", "text_encoder", "scheduler")
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
# Whose noise levels are those of DDPM, whatever they sample with.
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
# What a UNet may want to be told beside the noise level and the prompt, and what models have it.
_UNKNOWN_INPUTS = {
    "time_cond_proj_dim": "distilled with the strength of guidance as an input",
    "class_embed_type": "told a class",
    "num_class_embeds": "told a class",
    "addition_embed_type": "told more than a prompt, as Stable Diffusion XL is",
    "encoder_hid_dim_type": "told pictures beside the prompt",
}


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configurations of the parts, in a pipeline's folder or one of configurations alone (unet.json, ...).

    Raises:
        ValueError: one is missing or unreadable.
    """
    configs = {}
    for part in PARTS:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = next((p for p in (folder / part / name, folder / f"{part}.json") if p.is_file()), None)
        if path is None:
            raise ValueError(f"{folder} lacks {part}/{name} (or {part}.json): expected a base or its configs")
        configs[part] = read_json(path)
    return configs


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds an object; raises ValueError where it does not."""
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None


def check_index(folder: Path) -> None:
    """Raises ValueError if the folder's model_index.json is missing or names another family of models."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no diffusers pipeline folder: expected a file model_index.json in it")
    family = read_json(index).get("_class_name")
    if family != "StableDiffusionPipeline":
        raise ValueError(
            f"{folder} holds a {family}: expected a StableDiffusionPipeline (1.x or 2.x); models for inpainting and of "
            "other families are not supported"
        )


def check_configs(configs: Configs, *, name: str) -> None:
    """Refuses what the rest of this project would misread: the one check for looking at a base and for loading it.

    Args:
        name: What the base is called.

    Raises:
        ValueError: a part is of another class; the UNet wants to be told more than noise level and prompt, or of other
            channels or widths than the parts around it; the noise levels are not those of DDPM.
    """
    unet, vae, text = (configs[part] for part in ("unet", "vae", "text_encoder"))
    for part, expected in _CLASSES.items():
        named = configs[part].get("architectures") if part == "text_encoder" else [configs[part].get("_class_name")]
        if odd := [name for name in named or () if name not in (None, expected)]:
            raise ValueError(f"{part} of {name} is of the class {odd[0]}: expected {expected}")
    for key, description in _UNKNOWN_INPUTS.items():
        if unet.get(key) is not None:
            raise ValueError(
                f"the UNet of {name} is {description} ({key} = {unet[key]!r}): expected one that has no {key}"
            )
    takes, makes = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if takes != makes or unet.get("out_channels", 4) != makes:
        raise ValueError(
            f"the UNet of {name} takes {takes} channels and the autoencoder makes {makes}: expected equal numbers "
            "(inpainting models are not supported)"
        )
    width, reads = text.get("hidden_size", 512), unet.get("cross_attention_dim", 1280)
    if reads != width:
        raise ValueError(f"the UNet of {name} reads text embeddings {reads} wide, the text encoder makes {width}")
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
