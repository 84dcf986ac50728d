"""A base of published shapes and random weights, for measuring costs without a download."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hdb.diffusion.family import check_configs, read_configs
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import ROOT

CONFIGS = {"sd15-config": ROOT / "configs" / "sd15"}  # folders of published configurations, by name
CONFIG_NAMES = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15-config"}  # for hub ids of the same shapes
TOKENIZER = ROOT / "hdb/faceworld/weights/base/tokenizer"  # has other words, but prompts are padded to equal lengths


def resolve_base_configs(base: str) -> Path:
    """The folder with the configurations of a base: its own, or that of a published configuration.

    Raises:
        ValueError: There is none on this machine.
    """
    folder = CONFIGS.get(CONFIG_NAMES.get(base, base), Path(base))
    if not folder.is_dir():
        known = ", ".join((*CONFIGS, *CONFIG_NAMES))
        raise ValueError(f"no shapes of the base {base!r} on this machine: expected a folder, or one of {known}")
    return folder


def is_random_base(folder: Path) -> bool:
    """Whether a folder holds configurations without weights: unet.json instead of unet/."""
    return (folder / "unet.json").is_file()


def build_random_stable_diffusion(folder: Path, *, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """Builds a base from a folder of configurations or a pipeline folder, with weights from the global generator.

    Raises:
        ValueError: A configuration is missing or unreadable, or the base is not supported.
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
