"""The Weights & Biases run of a command, and what each command logs there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from experiments.config import dotted
from hdb.hypernet.trained import BEST_OF_SWEEP, SWEEP_METRIC, scores_of_finished_runs
from hdb.lidb.file import Subject
from hdb.runs.logger import SafeWandbLogger, resolve_mode, start_logger, try_logging
from hdb.training.ranks import is_rank_zero

PERSONAL = ("reference", "more_references", "output", "source", "consent")  # settings that name a person


@contextmanager
def wandb_run(config: object, *, stage: str, output: str | Path, keep_id: bool = True) -> Iterator[SafeWandbLogger]:
    """The logger of a run that ends with the `with` block; `keep_id` as in `start_logger`."""
    logger = create_wandb_logger(config, stage=stage, output=output, keep_id=keep_id)
    exit_code = 1
    try:
        yield logger
        exit_code = 0
    finally:
        try_logging(lambda: logger.experiment.finish(exit_code=exit_code))


def create_wandb_logger(config: object, *, stage: str, output: str | Path, keep_id: bool = True) -> SafeWandbLogger:
    """A logger that writes under `output` and has the config under its dotted names. Of several processes one logs.

    Raises:
        ValueError: as `check_wandb_mode`.
    """
    settings = dotted(config)
    is_private = not getattr(config.wandb, "share_subject", True)
    if is_private:
        settings = {name: value for name, value in settings.items() if name not in PERSONAL}
    return start_logger(
        Path(output),
        mode=check_wandb_mode(config) if is_rank_zero() else "disabled",
        project=config.wandb.project or os.environ.get("WANDB_PROJECT") or "hdb",
        name=config.wandb.name,
        stage=stage,
        config=settings,
        keep_id=keep_id and is_rank_zero(),
        is_private=is_private,
    )


def check_wandb_mode(config: object) -> str:
    """The mode of logging, of the config or of W&B's own settings; raises ValueError for online without a login."""
    return resolve_mode(config.wandb.mode)


def log_subject(logger: SafeWandbLogger, path: Path, *, sheet: Image.Image, seconds: float, share: bool) -> None:
    """Logs what a subject cost. Its pictures and its file only if they are to be shared."""
    logger.log_metrics({"personalize/seconds": seconds, "personalize/bytes": path.stat().st_size})
    if share:
        logger.log_image("personalize/pictures", [sheet])
        logger.log_artifact(path.stem, path, type="subject", metadata=Subject.load(path).metadata)


def log_network(logger: SafeWandbLogger, folder: Path, *, scores: Mapping[str, float]) -> None:
    """Logs a hypernetwork's folder as an artifact, named after the folder of its run."""
    if is_rank_zero():
        logger.log_artifact(folder.parent.name, *sorted(folder.iterdir()), type="hypernet", metadata=scores)


def log_best_of_sweep(logger: SafeWandbLogger, folder: Path, scores: Mapping[str, float]) -> None:
    """Logs the hypernetwork of a run as the artifact hypernet-<sweep>:best if no finished run of its sweep is better.

    Args:
        folder: of the run.
        scores: of the run.
    """
    sweep = os.environ.get("WANDB_SWEEP_ID")
    score = scores.get(SWEEP_METRIC)
    if not sweep or score is None or not is_rank_zero():
        return
    finished = scores_of_finished_runs(folder.parent)
    finished.pop(folder, None)
    if all(score > other for other in finished.values()):
        logger.log_artifact(
            f"hypernet-{sweep}",
            *sorted((folder / "hypernet").glob("*")),
            type="model",
            metadata=scores,
            aliases=[BEST_OF_SWEEP],
        )
