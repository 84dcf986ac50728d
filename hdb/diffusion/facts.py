"""Describes a base from its configuration files."""

from dataclasses import asdict
from pathlib import Path

import torch

from hdb.diffusion.families.table import PUBLISHED_CONFIGS, family_of_configs
from hdb.diffusion.folder import check_pipeline, find_pipeline
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions


def describe_base(base: str, lidb: LiDBOptions) -> dict[str, object]:
    """The layout that personal weights of a base have, as rows of a table. No weights are allocated or read.

    Raises:
        ValueError: It is not a supported base.
    """
    folder = PUBLISHED_CONFIGS.get(base) or find_pipeline(base, weights=False)
    if (folder / "model_index.json").is_file():
        is_local = Path(base).is_dir()  # the weights of a hub id were not downloaded
        check_pipeline(folder, weights=is_local)
    family = family_of_configs(folder)
    configs = family.read_configs(folder)
    family.check_configs(configs, name=base)
    with torch.device("meta"):
        components = {part: family.build_network(part, configs[part]) for part in family.components}
    layout = Layout.from_models(components, **asdict(lidb))
    return {
        "base": base,
        "layout digest": layout.digest,
        "slots": len(layout.slots),
        "rank": layout.rank,
        "theta": f"{layout.size} numbers",
        "bytes": f"{4 * layout.size} as float32, {2 * layout.size} as float16",
        "rank-1 LoRA": f"{layout.lora_size(1)} numbers over the same layers",
    }
