"""A base of published shapes and random weights: what it costs can be measured without downloading it."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hdb.diffusion.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[2]
CONFIGS = {"sd15-config": ROOT / "configs" / "sd15"}  # published configurations by name, found from any folder
PUBLISHED = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15-config"}  # hub ids of the same shapes
TOKENIZER = ROOT / "hdb/faceworld/weights/base/tokenizer"  # the words differ, the number of tokens that is run does not


def shapes_of(base: str) -> Path:
    """The folder that says the shapes of a base: its own, or that of the published configuration.

    Raises:
        ValueError: there is none on this machine.
    """
    folder = CONFIGS.get(PUBLISHED.get(base, base), Path(base))
    if not folder.is_dir():
        known = ", ".join((*CONFIGS, *PUBLISHED))
        raise ValueError(f"no shapes of the base {base!r} on this machine: expected a folder, or one of {known}")
    return folder


def is_random_base(folder: Path) -> bool:
    """Whether a folder holds the shapes of a base only: unet.json instead of unet/."""
    return (folder / "unet.json").is_file()


def random_stable_diffusion(folder: Path, *, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """Reads unet.json, vae.json, text_encoder.json and scheduler.json; draws the weights from the global generator.

    A pipeline folder will do: of that too only the configs are read.

    Raises:
        ValueError: one of the files is missing.
    """
    files = {part: _config_of(folder, part) for part in ("unet", "vae", "text_encoder", "scheduler")}
    if lacking := [file.name for file in files.values() if not file.is_file()]:
        expected = ", ".join(file.name for file in files.values())
        raise ValueError(f"{folder} lacks {', '.join(lacking)}: expected {expected}")
    shapes = {part: json.loads(file.read_text()) for part, file in files.items()}
    with device:
        unet = UNet2DConditionModel.from_config(shapes["unet"])
        vae = AutoencoderKL.from_config(shapes["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(shapes["text_encoder"]))
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        scheduler=DDPMScheduler.from_config(shapes["scheduler"]),
        name=f"{folder}, random weights",
    ).to(dtype)


def _config_of(folder: Path, part: str) -> Path:
    places = (folder / part / f"{name}.json" for name in ("config", "scheduler_config"))
    return next((place for place in places if place.is_file()), folder / f"{part}.json")
