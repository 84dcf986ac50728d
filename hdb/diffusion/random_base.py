"""A base of published shapes and random weights: what it costs can be measured without downloading it."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hdb.diffusion.family import check_configs, read_configs
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import ROOT

CONFIGS = {"sd15-config": ROOT / "configs" / "sd15"}  # published configurations by name, found from any folder
PUBLISHED = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15-config"}  # hub ids of the same shapes
TOKENIZER = ROOT / "hdb/faceworld/weights/base/tokenizer"  # the words differ, the number of tokens that is run does not


def resolve_base_configs(base: str) -> Path:
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


def build_random_stable_diffusion(folder: Path, *, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """A base of the shapes that a folder of configs, or of a pipeline, describes; its weights are not read.

    They are drawn from the global generator.

    Raises:
        ValueError: a config is missing or unreadable, or none of a base.
    """
    configs = read_configs(folder)
    check_configs(configs, name=str(folder))
    with device:
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        scheduler=DDPMScheduler.from_config(configs["scheduler"]),
        name=f"{folder}, random weights",
    ).to(dtype)
