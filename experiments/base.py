"""Trains what is frozen later: faceworld's small Stable Diffusion, the face encoder and the judges; `make base`."""

from pathlib import Path

from experiments.cli import run
from experiments.config import TrainBase, load


def main(argv: list[str]) -> None:
    train_base(load(TrainBase, argv))


def train_base(config: TrainBase) -> None:
    from contextlib import ExitStack

    import wandb

    from experiments.tracking import check_wandb_mode, create_wandb_logger
    from hdb.faceworld.base.parts import refuse_foreign_weights, train_part, training_people, untrained_parts
    from hdb.faceworld.base.views import Views
    from hdb.runs.locks import locked
    from hdb.runs.logger import SafeWandbLogger, try_logging
    from hdb.runs.outputs import check_room

    parts = untrained_parts(config.parts, config)
    if not parts:
        print(f"nothing left to train: {', '.join(config.parts)} lie in {config.weights}")
        return

    def create_logger(stage: str, output: Path) -> SafeWandbLogger:
        return create_wandb_logger(config, stage=stage, output=output)

    check_wandb_mode(config)
    for folder in (config.output, config.weights):
        check_room(folder, is_folder=True)
    if not config.overwrite:
        refuse_foreign_weights(parts, config)
    with ExitStack() as locks:
        for folder in sorted({Path(config.output).resolve(), Path(config.weights).resolve()}):
            locks.enter_context(locked(folder))
        dataset = training_people(config)
        views = Views.load(dataset, seed=config.seed)
        for part in parts:
            train_part(part, views, config, identities=dataset.indices, logger_of=create_logger)
            try_logging(wandb.finish)


if __name__ == "__main__":
    run(main)
