"""What a run does as one of many that W&B's agents start."""

import os
from collections.abc import Mapping
from pathlib import Path

from hdb.hypernet.trained import BEST_OF_SWEEP, SWEEP_METRIC, scores_of_finished_runs
from hdb.runs.logger import PatientLogger
from hdb.training.ranks import is_rank_zero


def log_winner(logger: PatientLogger, folder: Path, scores: Mapping[str, float]) -> None:
    """The network of a sweep's run that is better than all finished before it: the artifact hypernet-<sweep>:best."""
    sweep, score = os.environ.get("WANDB_SWEEP_ID"), scores.get(SWEEP_METRIC)
    if not sweep or score is None or not is_rank_zero():
        return
    if all(score > other for of, other in scores_of_finished_runs(folder.parent).items() if of != folder):
        name, files = f"hypernet-{sweep}", sorted((folder / "hypernet").glob("*"))
        logger.log_files(name, *files, kind="model", about=scores, aliases=[BEST_OF_SWEEP])
