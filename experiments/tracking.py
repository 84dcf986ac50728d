"""The Weights & Biases run of an experiment: online where a login exists, offline elsewhere, never a question."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import wandb
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from experiments.config import dotted
from hdb.hypernet.trained import BEST, BEST_BY, finished_runs
from hdb.lidb.file import Subject
from hdb.runs.logger import attempted, mode_of, started
from hdb.training.ranks import is_first


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
    """A logger that writes under `output`, with the config under its dotted names; raises as `check_mode`.

    Of several processes the first logs.
    """
    project = config.wandb.project or os.environ.get("WANDB_PROJECT") or "hdb"
    about = {"project": project, "name": config.wandb.name, "stage": stage, "config": dotted(config)}
    mode = check_mode(config) if is_first() else "disabled"
    return started(Path(output), mode=mode, keep=keep and is_first(), **about)


def check_mode(config: object) -> str:
    """How to log, as the config says or W&B's own settings do; raises ValueError for online without a login."""
    return mode_of(config.wandb.mode)


def log_subject(logger: WandbLogger, path: Path, *, sheet: Image.Image, seconds: float) -> None:
    """The pictures of a subject, what it cost, and its file as an artifact."""
    logger.log_image("personalize/pictures", [sheet])
    logger.log_metrics({"personalize/seconds": seconds, "personalize/bytes": path.stat().st_size})
    attempted(lambda: _log_file(logger, path))


def log_winner(logger: WandbLogger, folder: Path, scores: Mapping[str, float]) -> None:
    """The network of a sweep's run that is better than all finished before it: the artifact hypernet-<sweep>:best."""
    sweep, own = os.environ.get("WANDB_SWEEP_ID"), scores.get(BEST_BY)
    others = [score for of, score in finished_runs(folder.parent).items() if of != folder] if sweep else []
    if sweep and is_first() and own is not None and all(own > other for other in others):
        attempted(lambda: _log_network(logger, folder, f"hypernet-{sweep}", scores))


def _log_network(logger: WandbLogger, folder: Path, name: str, scores: Mapping[str, float]) -> None:
    artifact = wandb.Artifact(name, type="model", metadata=dict(scores))
    artifact.add_dir(str(folder / "hypernet"))
    logger.experiment.log_artifact(artifact, aliases=[BEST])


def _log_file(logger: WandbLogger, path: Path) -> None:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)[:128]  # what W&B takes
    artifact = wandb.Artifact(name, type="subject", metadata=Subject.load(path).metadata)
    artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)
