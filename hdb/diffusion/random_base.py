"""A base of published shapes and random weights, for measuring costs without a download."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from transformers import CLIPTokenizer

from hdb.diffusion.families.table import FAMILIES, PUBLISHED_CONFIGS, family_of_configs
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import ROOT

# The names of published configurations for hub ids of the same shapes.
CONFIG_NAMES = {hub_id: family.config_name for family in FAMILIES for hub_id in family.hub_ids}
TOKENIZER = ROOT / "hdb/faceworld/weights/base/tokenizer"  # has other words, but prompts are padded to equal lengths


def resolve_base_configs(base: str) -> Path:
    """The folder with the configurations of a base: its own, or that of a published configuration.

    Raises:
        ValueError: There is none on this machine.
    """
    folder = PUBLISHED_CONFIGS.get(CONFIG_NAMES.get(base, base), Path(base))
    if not folder.is_dir():
        known = ", ".join((*PUBLISHED_CONFIGS, *CONFIG_NAMES))
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
    family = family_of_configs(folder)
    configs = family.read_configs(folder)
    family.check_configs(configs, name=str(folder))
    parts: dict[str, Any] = {"scheduler": DDPMScheduler.from_config(configs["scheduler"])}
    with device:
        for part in family.network_classes:
            parts[part] = family.build_network(part, configs[part])
    for tokenizer in family.tokenizers.values():
        parts[tokenizer] = CLIPTokenizer.from_pretrained(TOKENIZER)
    return StableDiffusion(parts, family=family, name=f"{folder}, random weights").to(device).cast(dtype)
