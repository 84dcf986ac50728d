"""Describes a base from its configuration files."""

from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from hdb.diffusion.family import check_configs, read_configs
from hdb.diffusion.folder import check_pipeline, find_pipeline
from hdb.diffusion.random_base import CONFIGS
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions


def describe_base(base: str, lidb: LiDBOptions) -> dict[str, object]:
    """The layout that personal weights of a base have, as rows of a table. No weights are allocated or read.

    Raises:
        ValueError: It is not a supported base.
    """
    folder = CONFIGS.get(base) or find_pipeline(base, weights=False)
    if (folder / "model_index.json").is_file():
        is_local = Path(base).is_dir()  # the weights of a hub id were not downloaded
        check_pipeline(folder, weights=is_local)
    configs = read_configs(folder)
    check_configs(configs, name=base)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
    layout = Layout.from_models(unet=unet, text_encoder=text_encoder, **asdict(lidb))
    return {
        "base": base,
        "layout digest": layout.digest,
        "slots": len(layout.slots),
        "rank": layout.rank,
        "theta": f"{layout.size} numbers",
        "bytes": f"{4 * layout.size} as float32, {2 * layout.size} as float16",
        "rank-1 LoRA": f"{layout.lora_size(1)} numbers over the same layers",
    }
