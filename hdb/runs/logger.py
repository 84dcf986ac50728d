"""A run's log at Weights & Biases, which decides nothing: where it fails, one line says so and the run goes on."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from hdb.faces.artifacts import has_login, mode_in_files
from hdb.files import write_text

MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")  # the last two are old names of the first two
RUN_ID = "wandb-run-id.txt"  # in a run's folder: a resumed run is one run there, too
PATIENCE = {"init_timeout": 10, "finish_timeout": 60}  # s; with the start of W&B's process the first are about 15
# W&B also keeps the words of a command, what it prints, user, machine and repository.
PRIVATE = {"x_disable_meta": True, "x_disable_machine_info": True, "console": "off", "disable_git": True}
_told: set[str] = set()


class PatientLogger(WandbLogger):
    """A logger whose failures are one line each, the same only once."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        attempted(lambda: WandbLogger.log_metrics(self, metrics, step))

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        attempted(lambda: WandbLogger.log_image(self, key, images, step, **kwargs))

    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        attempted(lambda: WandbLogger.log_table(self, key, *args, **kwargs))

    def log_hyperparams(self, params: Any) -> None:
        attempted(lambda: WandbLogger.log_hyperparams(self, params))

    def log_files(
        self, name: str, *files: Path, kind: str, about: Mapping[str, Any], aliases: list[str] | None = None
    ) -> None:
        """Files as an artifact of a kind, under a name as near to this one as W&B takes."""

        def log() -> None:
            artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:128], type=kind, metadata=dict(about))
            for file in files:
                artifact.add_file(str(file))
            self.experiment.log_artifact(artifact, aliases=aliases)

        attempted(log)


class NoRun:
    """What logs nowhere, where W&B cannot even do that."""

    id = name = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def started(
    output: Path,
    *,
    mode: str,
    project: str,
    name: str | None,
    stage: str,
    config: dict[str, object],
    keep: bool,
    private: bool = False,
) -> PatientLogger:
    """The logger of a run that writes under `output`; offline where W&B does not answer, nowhere where that fails.

    What W&B's environment variables say is left to them.

    Args:
        keep: `output` is this run's own: one that is resumed there keeps its id.
        private: it is about a person: numbers alone leave this machine.
    """
    record = output / RUN_ID
    known = record.read_text().strip() if keep and record.is_file() else None
    asked = {
        "project": project,
        "name": name,
        "dir": None if os.environ.get("WANDB_DIR") else str(output),
        "id": os.environ.get("WANDB_RUN_ID") or known,
        "resume": os.environ.get("WANDB_RESUME") or "allow",
        "job_type": os.environ.get("WANDB_JOB_TYPE") or stage,
        "config": config,
    }
    patience = {name: time for name, time in PATIENCE.items() if not os.environ.get(f"WANDB_{name.upper()}")}
    wanted = patience | (PRIVATE if private else {})
    settings = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    run: Any = NoRun()
    for tried in dict.fromkeys((mode, "disabled" if mode == "disabled" else "offline", "disabled")):
        try:
            output.mkdir(parents=True, exist_ok=True)
            run = wandb.init(mode=tried, settings=wandb.Settings(**settings), **asked)
            break
        except Exception as error:  # wandb's, pydantic's and the system's share no base
            then = "without" if tried in ("offline", "disabled") else "offline"
            tell(f"W&B cannot log {tried} ({short(error)}): going on {then}")
    if keep and mode != "disabled" and getattr(run, "id", None):
        with suppress(OSError):
            write_text(record, f"{run.id}\n")
    # As WandbLogger does for runs that it starts itself:
    attempted(lambda: run.define_metric("trainer/global_step"))
    attempted(lambda: run.define_metric("*", step_metric="trainer/global_step", step_sync=True))
    return PatientLogger(experiment=run, project=project, name=name, save_dir=str(output))


def mode_of(asked: str | None) -> str:
    """online, offline, disabled or shared: what is asked for, else what W&B's own settings say.

    Raises:
        ValueError: online is asked for without a login.
    """
    asked = asked or os.environ.get("WANDB_MODE") or mode_in_files()
    if asked is not None and asked not in MODES:
        tell(f"WANDB_MODE is {asked!r}, expected one of {', '.join(MODES)}: logging offline")
        asked = "offline"
    mode = {"run": "online", "dryrun": "offline"}.get(asked, asked)
    if mode == "online" and not has_login():
        raise ValueError("wandb.mode=online needs WANDB_API_KEY or a `wandb login`; wandb.mode=offline needs neither")
    return mode or ("online" if has_login() else "offline")


def attempted(log: Callable[[], object]) -> None:
    """Logs; says in a line why it could not."""
    try:
        log()
    except Exception as error:  # see above
        tell(f"not logged to W&B: {short(error)}")


def tell(line: str) -> None:
    """Says a line, the same only once."""
    if line not in _told:
        _told.add(line)
        print(line, file=sys.stderr)


def short(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
