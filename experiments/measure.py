"""What faceworld's weights reach on people no training saw: python -m experiments.measure configs/faceworld/base.yaml

Writes report.json, REPORT.md, curves.png and samples.png beside the weights; `make base` ends with it. The page shows
subjects.png, an evaluation's grid, where it lies there, and ends with notes.md: what a person has to say of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import run
from experiments.config import Pretrain, TrainBase, load

if TYPE_CHECKING:
    from hdb.faceworld.base.measure import HypernetTraining


def main(argv: list[str]) -> None:
    config = load(TrainBase, argv)
    pretrain = load(Pretrain, [config.pretrain])
    report = Path(config.weights, "REPORT.md")
    record = Path(config.weights, "report.json")
    if report.exists() and not record.exists() and not config.overwrite:
        raise ValueError(f"{report} is there and not of an earlier call: expected other weights, or overwrite=true")

    from hdb.faceworld.base.measure import measure

    print(measure(config, hypernet_training(pretrain)))


def hypernet_training(pretrain: Pretrain) -> HypernetTraining:
    """What the report says about the training of the hypernetwork."""
    from hdb.faceworld.base.measure import HypernetTraining

    return HypernetTraining(
        folder=Path(pretrain.output),
        faces=pretrain.faces,
        batch_size=pretrain.faces.batch_size,
        options=pretrain,
        seed=pretrain.seed,
    )


if __name__ == "__main__":
    run(main)
