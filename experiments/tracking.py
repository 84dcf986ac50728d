"""The Weights & Biases run of an experiment: online where a login exists, offline elsewhere, never a question."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
    attempted(lambda: log_files(logger, path.stem, [path], kind="subject", about=Subject.load(path).metadata))


def log_winner(logger: WandbLogger, folder: Path, scores: Mapping[str, float]) -> None:
    """The network of a sweep's run that is better than all finished before it: the artifact hypernet-<sweep>:best."""
    sweep, score = os.environ.get("WANDB_SWEEP_ID"), scores.get(BEST_BY)
    if not sweep or score is None or not is_first():
        return
    if all(score > other for of, other in finished_runs(folder.parent).items() if of != folder):
        name, files = f"hypernet-{sweep}", sorted((folder / "hypernet").glob("*"))
        attempted(lambda: log_files(logger, name, files, kind="model", about=scores, aliases=[BEST]))


def log_files(
    logger: WandbLogger,
    name: str,
    files: Sequence[Path],
    *,
    kind: str,
    about: Mapping[str, str | float],
    aliases: list[str] | None = None,
) -> None:
    """Some files as one artifact."""
    taken = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:128]  # by W&B
    artifact = wandb.Artifact(taken, type=kind, metadata=dict(about))
    for path in files:
        artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact, aliases=aliases)
