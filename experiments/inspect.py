"""What a subject's file or a base is made of: python -m experiments.inspect subject=me.safetensors

base=sd15-config counts the slots of Stable Diffusion 1.5 without its weights and without a network, base=sdxl-config
those of Stable Diffusion XL.
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Inspect, load
from experiments.inputs import check_people


def main(argv: list[str]) -> None:
    config = load(Inspect, argv)
    if (config.subject is None) == (config.base is None):
        raise ValueError(
            "give either subject=FILE.safetensors or base=FOLDER_OR_ID, a base or its configs; or base=sd15-config"
        )
    if config.subject is not None:
        check_people([config.subject])
        from hdb.lidb.facts import describe_subject

        rows = describe_subject(Path(config.subject))
    else:
        from hdb.diffusion.facts import describe_base

        rows = describe_base(config.base, config.lidb)
    for name, value in rows.items():
        print(f"{name:14} {value}")


if __name__ == "__main__":
    run(main)
