"""What faceworld's weights reach on people no training saw: python -m experiments.measure configs/faceworld/base.yaml

Writes report.json, REPORT.md, curves.png and samples.png beside the weights; `make base` ends with it. The page shows
subjects.png, an evaluation's grid, where it lies there, and ends with notes.md: what a person has to say of them.
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Pretrain, TrainBase, load
from hdb.faceworld.base.measure import HypernetTraining, measure


def main(argv: list[str]) -> None:
    config = load(TrainBase, argv)
    report, record = Path(config.weights, "REPORT.md"), Path(config.weights, "report.json")
    if report.exists() and not record.exists() and not config.overwrite:
        raise ValueError(f"{report} is there and not of an earlier call: expected other weights, or overwrite=true")
    print(measure(config, training_of(config.pretrain)))


def training_of(yaml: str) -> HypernetTraining:
    """The training that a YAML of `experiments.pretrain` describes."""
    settings = load(Pretrain, [yaml])
    return HypernetTraining(
        folder=Path(settings.output),
        faces=settings.faces,
        batch_size=settings.faces.batch_size,
        options=settings,
        seed=settings.seed,
    )


if __name__ == "__main__":
    run(main)
