"""The log of a run at Weights & Biases. A failure of logging is one line and never ends the run."""

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
from hdb.files import read_text, write_text
from hdb.runs.options import MODES

RUN_ID_FILE = "wandb-run-id.txt"  # in a run's folder: a resumed run keeps its id
TIMEOUTS = {"init_timeout": 10, "finish_timeout": 60}  # s; starting W&B's process adds 5 to the first
# By default W&B also records the command line, what is printed, user, machine and repository.
PRIVATE_SETTINGS = {"x_disable_meta": True, "x_disable_machine_info": True, "console": "off", "disable_git": True}
_printed_warnings: set[str] = set()


class SafeWandbLogger(WandbLogger):
    """Lightning's logger, but a failure is one line, and the same line is printed once."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        try_logging(lambda: WandbLogger.log_metrics(self, metrics, step))

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        try_logging(lambda: WandbLogger.log_image(self, key, images, step, **kwargs))

    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        try_logging(lambda: WandbLogger.log_table(self, key, *args, **kwargs))

    def log_hyperparams(self, params: Any) -> None:
        try_logging(lambda: WandbLogger.log_hyperparams(self, params))

    def log_artifact(
        self, name: str, *files: Path, type: str, metadata: Mapping[str, Any], aliases: list[str] | None = None
    ) -> None:
        """Logs files as one artifact. Characters that W&B does not take in its name become underscores."""

        def log() -> None:
            valid_name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:128]
            artifact = wandb.Artifact(valid_name, type=type, metadata=dict(metadata))
            for file in files:
                artifact.add_file(str(file))
            self.experiment.log_artifact(artifact, aliases=aliases)

        try_logging(log)


class NullRun:
    """A run that logs nowhere, for when W&B cannot even start a disabled one."""

    id = name = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def start_logger(
    output: Path,
    *,
    mode: str,
    project: str,
    name: str | None,
    stage: str,
    config: dict[str, object],
    keep_id: bool,
    is_private: bool = False,
) -> SafeWandbLogger:
    """Starts a W&B run that writes under `output`: offline if online fails, and nowhere if that fails, too.

    W&B's environment variables are respected.

    Args:
        keep_id: `output` is the folder of this run alone, and a resumed run continues its W&B run.
        is_private: the run is about a person: only numbers leave this machine.
    """
    id_file = output / RUN_ID_FILE
    previous_id = read_text(id_file).strip() if keep_id and id_file.is_file() else None
    settings: dict[str, Any] = {
        key: seconds for key, seconds in TIMEOUTS.items() if not os.environ.get(f"WANDB_{key.upper()}")
    }
    if is_private:
        settings |= PRIVATE_SETTINGS
    settings = {key: value for key, value in settings.items() if key in wandb.Settings.model_fields}
    run: Any = NullRun()
    error: Exception | None = None
    fallbacks = ("disabled",) if mode == "disabled" else (mode, "offline")
    for attempt in dict.fromkeys(fallbacks):
        try:
            output.mkdir(parents=True, exist_ok=True)
            run = wandb.init(
                mode=attempt,
                project=project,
                name=name,
                dir=None if os.environ.get("WANDB_DIR") else str(output),
                id=os.environ.get("WANDB_RUN_ID") or previous_id,
                resume=os.environ.get("WANDB_RESUME") or "allow",
                job_type=os.environ.get("WANDB_JOB_TYPE") or stage,
                config=config,
                settings=wandb.Settings(**settings),
            )
            break
        except Exception as failure:  # those of wandb, pydantic and the system have no common base
            error = error or failure
    if error is not None and mode != "disabled":
        consequence = "without" if isinstance(run, NullRun) else "offline"
        warn_once(f"W&B cannot log {mode} ({one_line(error)}): going on {consequence}")
    if keep_id and mode != "disabled" and getattr(run, "id", None):
        with suppress(OSError):
            write_text(id_file, f"{run.id}\n")
    # What WandbLogger does for runs that it starts itself:
    try_logging(lambda: run.define_metric("trainer/global_step"))
    try_logging(lambda: run.define_metric("*", step_metric="trainer/global_step", step_sync=True))
    return SafeWandbLogger(experiment=run, project=project, name=name, save_dir=str(output))


def resolve_mode(mode: str | None) -> str:
    """The mode of the config, else that of W&B's own settings: online, offline, disabled or shared.

    Raises:
        ValueError: online without a login.
    """
    mode = mode or os.environ.get("WANDB_MODE") or mode_in_files()
    if mode is not None and mode not in MODES:
        warn_once(f"WANDB_MODE is {mode!r}, expected one of {', '.join(MODES)}: logging offline")
        mode = "offline"
    mode = {"run": "online", "dryrun": "offline"}.get(mode, mode)
    if mode == "online" and not has_login():
        raise ValueError("wandb.mode=online needs WANDB_API_KEY or a `wandb login`; wandb.mode=offline needs neither")
    return mode or ("online" if has_login() else "offline")


def try_logging(log: Callable[[], object]) -> None:
    """Calls `log`; a failure is one line on stderr."""
    try:
        log()
    except Exception as error:  # those of wandb, pydantic and the system have no common base
        warn_once(f"not logged to W&B: {one_line(error)}")


def warn_once(line: str) -> None:
    """Prints a line to stderr, the same line only once."""
    if line not in _printed_warnings:
        _printed_warnings.add(line)
        print(line, file=sys.stderr)


def one_line(error: Exception) -> str:
    """An error in one line of at most 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
