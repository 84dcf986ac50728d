"""What a base is made of, in rows of a name and a fact."""

import json
from dataclasses import asdict

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from hdb.diffusion.pipeline import check_family, find_pipeline
from hdb.diffusion.random_base import CONFIGS
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions


def base_rows(base: str, lidb: LiDBOptions) -> dict[str, object]:
    """The slots of a base, from unet/config.json and text_encoder/config.json alone: no weight is made or read."""
    folder = CONFIGS.get(base) or find_pipeline(base, weights=False)
    if (folder / "model_index.json").is_file():
        check_family(folder)
    configs = {}
    for part in ("unet", "text_encoder"):
        path = next((p for p in (folder / part / "config.json", folder / f"{part}.json") if p.is_file()), None)
        if path is None:
            raise ValueError(f"{folder} lacks {part}/config.json (or {part}.json): expected a base or its configs")
        try:
            configs[part] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not readable as JSON: {error}") from None
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
    layout = Layout.of(unet=unet, text_encoder=text_encoder, **asdict(lidb))
    return {
        "base": base,
        "layout digest": layout.digest,
        "slots": len(layout.slots),
        "rank": layout.rank,
        "theta": f"{layout.size} numbers",
        "bytes": f"{4 * layout.size} as float32, {2 * layout.size} as float16",
        "rank-1 LoRA": f"{layout.lora_size(1)} numbers over the same layers",
    }
