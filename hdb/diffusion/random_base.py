"""A base of published shapes and random weights: what it costs can be measured without downloading it."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hdb.diffusion.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[2]
CONFIGS = {"sd15-config": ROOT / "configs" / "sd15"}  # published configurations by name, found from any folder
TOKENIZER = ROOT / "hdb/faceworld/weights/base/tokenizer"  # the words differ, the number of tokens that is run does not


def is_random_base(folder: Path) -> bool:
    """Whether a folder holds the shapes of a base only: unet.json instead of unet/."""
    return (folder / "unet.json").is_file()


def random_stable_diffusion(folder: Path, *, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """Reads unet.json, vae.json, text_encoder.json and scheduler.json; draws the weights from the global generator.

    Raises:
        ValueError: one of the files is missing.
    """
    files = {part: folder / f"{part}.json" for part in ("unet", "vae", "text_encoder", "scheduler")}
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
