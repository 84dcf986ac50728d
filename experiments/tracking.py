"""The Weights & Biases run of an experiment: online where a login exists, offline elsewhere, never a question."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from experiments.config import dotted
from hdb.lidb.file import Subject
from hdb.runs.logger import PatientLogger, attempted, mode_of, started
from hdb.training.ranks import is_rank_zero

PERSONAL = ("reference", "more_references", "output", "source", "consent")  # what names a person, of a config


@contextmanager
def wandb_run(config: object, *, stage: str, output: str | Path, keep: bool = True) -> Iterator[PatientLogger]:
    """The logger of one run, which ends with the `with` block; `keep` as in `started`."""
    logger, failed = wandb_logger(config, stage=stage, output=output, keep=keep), True
    try:
        yield logger
        failed = False
    finally:
        attempted(lambda: logger.experiment.finish(exit_code=int(failed)))


def wandb_logger(config: object, *, stage: str, output: str | Path, keep: bool = True) -> PatientLogger:
    """A logger that writes under `output`, with the config under its dotted names; raises as `check_mode`.

    Of several processes the first logs.
    """
    project = config.wandb.project or os.environ.get("WANDB_PROJECT") or "hdb"
    settings, private = dotted(config), not getattr(config.wandb, "share_subject", True)
    if private:
        settings = {name: value for name, value in settings.items() if name not in PERSONAL}
    about = {"project": project, "name": config.wandb.name, "stage": stage, "config": settings}
    mode = check_mode(config) if is_rank_zero() else "disabled"
    return started(Path(output), mode=mode, keep=keep and is_rank_zero(), private=private, **about)


def check_mode(config: object) -> str:
    """How to log, as the config says or W&B's own settings do; raises ValueError for online without a login."""
    return mode_of(config.wandb.mode)


def log_subject(logger: PatientLogger, path: Path, *, sheet: Image.Image, seconds: float, share: bool) -> None:
    """What a subject cost; only if it is to be shared, its pictures, and its file as an artifact."""
    logger.log_metrics({"personalize/seconds": seconds, "personalize/bytes": path.stat().st_size})
    if share:
        logger.log_image("personalize/pictures", [sheet])
        logger.log_files(path.stem, path, kind="subject", about=Subject.load(path).metadata)


def log_network(logger: PatientLogger, folder: Path, *, scores: Mapping[str, float], upload: bool) -> None:
    """Where asked, the hypernetwork's folder with the run's scores, as an artifact of the name of the run's folder."""
    if upload and is_rank_zero():
        logger.log_files(folder.parent.name, *sorted(folder.iterdir()), kind="hypernet", about=scores)
