"""The Weights & Biases run of an experiment: online where a login exists, offline elsewhere, never a question."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from experiments.config import Stage, dotted


@contextmanager
def wandb_run(config: Stage, *, stage: str, output: str | Path) -> Iterator[WandbLogger]:
    """The logger of one run, which ends with the `with` block."""
    logger, failed = wandb_logger(config, stage=stage, output=output), True
    try:
        yield logger
        failed = False
    finally:
        logger.experiment.finish(exit_code=int(failed))


def wandb_logger(config: Stage, *, stage: str, output: str | Path) -> WandbLogger:
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


def has_login() -> bool:
    """Whether W&B knows who is asking, without asking anybody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
