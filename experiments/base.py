"""Trains what is frozen later: faceworld's small Stable Diffusion, the face encoder and the judges; `make base`."""

from contextlib import ExitStack
from pathlib import Path

import wandb
from lightning.pytorch.loggers import WandbLogger

from experiments.cli import run
from experiments.config import TrainBase, load
from experiments.tracking import check_mode, wandb_logger
from hdb.faceworld.base.parts import refuse_foreign_weights, train_part, training_people, untrained_parts
from hdb.faceworld.base.views import Views
from hdb.runs.locks import locked
from hdb.runs.logger import attempted
from hdb.runs.outputs import check_room


def main(argv: list[str]) -> None:
    config = load(TrainBase, argv)
    names = untrained_parts(config.parts, config)
    if not names:
        print(f"nothing left to train: {', '.join(config.parts)} lie in {config.weights}")
        return

    def logger_of(stage: str, output: Path) -> WandbLogger:
        return wandb_logger(config, stage=stage, output=output)

    check_mode(config)
    for place in (config.output, config.weights):
        check_room(place, is_folder=True)
    if not config.overwrite:
        refuse_foreign_weights(names, config)
    with ExitStack() as locks:
        for place in sorted({Path(config.output).resolve(), Path(config.weights).resolve()}):
            locks.enter_context(locked(place))
        dataset = training_people(config)
        views = Views.load(dataset, seed=config.seed)
        for name in names:
            train_part(name, views, config, identities=dataset.indices, logger_of=logger_of)
            attempted(wandb.finish)


if __name__ == "__main__":
    run(main)
