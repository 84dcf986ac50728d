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
from hdb.faces.artifacts import has_login
from hdb.lidb.file import Subject


@contextmanager
def wandb_run(config: object, *, stage: str, output: str | Path) -> Iterator[WandbLogger]:
    """The logger of one run, which ends with the `with` block."""
    logger, failed = wandb_logger(config, stage=stage, output=output), True
    try:
        yield logger
        failed = False
    finally:
        logger.experiment.finish(exit_code=int(failed))


def wandb_logger(config: object, *, stage: str, output: str | Path) -> WandbLogger:
    """A logger that writes under `output`, with the config under its dotted names.

    Raises:
        ValueError: an unknown mode, or `online` without a login.
    """
    mode = config.wandb.mode or os.environ.get("WANDB_MODE") or ("online" if has_login() else "offline")
    if mode not in ("online", "offline", "disabled"):
        raise ValueError(f"wandb.mode must be online, offline or disabled, not {mode!r}")
    if mode == "online" and not has_login():
        raise ValueError("wandb.mode=online needs WANDB_API_KEY or a `wandb login`; wandb.mode=offline needs neither")
    Path(output).mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        project=config.wandb.project,
        name=config.wandb.name,
        save_dir=output,
        mode=mode,
        job_type=stage,
        config=dotted(config),
    )


def log_subject(logger: WandbLogger, path: Path, *, sheet: Image.Image, seconds: float) -> None:
    """The pictures of a subject, what it cost, and its file as an artifact."""
    logger.log_image("personalize/pictures", [sheet])
    logger.log_metrics({"personalize/seconds": seconds, "personalize/bytes": path.stat().st_size})
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)  # what W&B takes
    artifact = wandb.Artifact(name, type="subject", metadata=Subject.load(path).metadata)
    artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)
