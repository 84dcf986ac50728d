"""The Weights & Biases run of an experiment: online where a login exists, offline elsewhere, never a question."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from experiments.config import dotted
from hdb.lidb.file import Subject
from hdb.runs.logger import attempted, mode_of, started

PERSONAL = ("reference", "more_references", "output", "source", "consent")  # what names a person, of a config


@contextmanager
def wandb_run(config: object, *, stage: str, output: str | Path, keep: bool = True) -> Iterator[WandbLogger]:
    """The logger of one run, which ends with the `with` block; `keep` as in `started`."""
    logger, failed = wandb_logger(config, stage=stage, output=output, keep=keep), True
    try:
        yield logger
        failed = False
    finally:
        attempted(lambda: logger.experiment.finish(exit_code=int(failed)))


def wandb_logger(config: object, *, stage: str, output: str | Path, keep: bool = True) -> WandbLogger:
    """A logger that writes under `output`, with the config under its dotted names; raises as `check_mode`."""
    project = config.wandb.project or os.environ.get("WANDB_PROJECT") or "hdb"
    settings, private = dotted(config), not getattr(config.wandb, "share_subject", True)
    if private:
        settings = {name: value for name, value in settings.items() if name not in PERSONAL}
    about = {"project": project, "name": config.wandb.name, "stage": stage, "config": settings}
    return started(Path(output), mode=check_mode(config), keep=keep, private=private, **about)


def check_mode(config: object) -> str:
    """How to log, as the config says or W&B's own settings do; raises ValueError for online without a login."""
    return mode_of(config.wandb.mode)


def log_subject(logger: WandbLogger, path: Path, *, sheet: Image.Image, seconds: float, share: bool) -> None:
    """What a subject cost; only if it is to be shared, its pictures, and its file as an artifact."""
    logger.log_metrics({"personalize/seconds": seconds, "personalize/bytes": path.stat().st_size})
    if share:
        logger.log_image("personalize/pictures", [sheet])
        attempted(lambda: _log_file(logger, path))


def _log_file(logger: WandbLogger, path: Path) -> None:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)[:128]  # what W&B takes
    artifact = wandb.Artifact(name, type="subject", metadata=Subject.load(path).metadata)
    artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)
