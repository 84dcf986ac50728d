"""What an evaluation leaves at Weights & Biases: means, the grid, tables, and its files as an artifact."""

from collections.abc import Sequence
from pathlib import Path

import wandb

from hdb.evaluation.evaluate import Outcome
from hdb.evaluation.summary import logged_means
from hdb.evaluation.tables import Table
from hdb.runs.logger import PatientLogger, attempted


def log_evaluation(logger: PatientLogger, files: Sequence[Path], outcome: Outcome) -> None:
    """All of it, each as far as W&B takes it."""
    logger.log_metrics(logged_means(outcome.results["methods"]))
    logger.log_image("eval/grid", [outcome.grid])
    for table in outcome.tables:
        attempted(lambda table=table: logger.experiment.log({f"eval/{table.title}": shown(table)}))
    about = {name: str(outcome.results["protocol"][name]) for name in ("base", "base_digest", "hypernetwork")}
    logger.log_files("evaluation", *files, kind="evaluation", about=about)


def shown(table: Table) -> wandb.Table:
    return wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
