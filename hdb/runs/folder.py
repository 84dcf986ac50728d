"""The folder of a run: locked while it runs, resumed after an interruption, set aside for another run."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from hdb.files import read_text, write_text
from hdb.runs.locks import find_held_lock, locked
from hdb.runs.logger import RUN_ID_FILE
from hdb.runs.outputs import check_room, refuse_inputs

CONFIG_FILE = "config.yaml"
LAST_CHECKPOINT = "last.ckpt"
MAX_STEPS = "schedule.max_steps"  # a finished run is resumed if it asks for more of them
Inputs = Sequence[tuple[str, Path]]  # name of the setting, path


@contextmanager
def run_folder(
    folder: str | Path, settings: Mapping[str, object], *, result: str, inputs: Inputs = ()
) -> Iterator[bool]:
    """Prepares `folder` for a run of these settings, and holds its lock within the `with` block.

    Gives True if an unfinished run of the same settings is resumed. The folder of a finished run (it holds `result`),
    or of a run of other settings, is renamed to folder.1, .2, ... A finished run of fewer steps goes on from its last
    checkpoint.

    Args:
        settings: everything that the result depends on.
        inputs: what the run reads.

    Raises:
        ValueError: another run works there, the folder is not of a run, or an input lies in it.
    """
    with locked(folder):
        yield _prepare(Path(folder), dict(settings), result, inputs)


@contextmanager
def shared_folder(folder: str | Path, inputs: Inputs) -> Iterator[None]:
    """Holds the lock on a folder that many runs add to within the `with` block.

    Raises:
        ValueError: another run works there, it cannot be written, or an input lies in it.
    """
    check_room(folder, is_folder=True)
    refuse_inputs(folder, inputs)
    with locked(folder):
        yield


def check_folder(folder: str | Path, inputs: Inputs) -> None:
    """Raises ValueError if no run can write there. Called before networks are read."""
    check_room(folder, is_folder=True)
    refuse_inputs(folder, inputs)
    foreign = _find_foreign(Path(folder))
    if foreign:
        raise ValueError(f"{folder} holds {foreign}, which is of no run: expected a new or empty folder as output")


def _prepare(folder: Path, settings: dict[str, object], result: str, inputs: Inputs) -> bool:
    previous = _read_config(folder)
    if previous is None:
        check_folder(folder, inputs)
        _write_config(folder, settings)
        return False
    is_same_run = _is_same_run(previous, settings)
    if is_same_run and not (folder / result).exists():
        print(f"going on with the unfinished run in {folder}")
        _write_config(folder, settings)
        return True
    refuse_inputs(folder, inputs)
    lock_file = find_held_lock(folder)
    if lock_file:
        raise ValueError(f"a run goes on within {folder} ({lock_file}): wait for its end, or give another output")
    folder = folder.resolve()  # a link stays, and leads to the new folder
    number = next(n for n in range(1, 100_000) if not os.path.lexists(folder.with_name(f"{folder.name}.{n}")))
    aside = folder.rename(folder.with_name(f"{folder.name}.{number}"))
    print(f"the earlier run in {folder} is now in {aside}")
    _write_config(folder, settings)
    has_more_steps = is_same_run and _has_fewer_steps(aside / result, settings)
    if not has_more_steps or not (aside / LAST_CHECKPOINT).is_file():
        return False
    for name in (LAST_CHECKPOINT, RUN_ID_FILE):
        if (aside / name).is_file():
            shutil.copy2(aside / name, folder / name)
    print(f"going on from its last step, to step {settings[MAX_STEPS]}")
    return True


def _write_config(folder: Path, settings: dict[str, object]) -> None:
    write_text(folder / CONFIG_FILE, yaml.safe_dump(settings, sort_keys=False))


def _read_config(folder: Path) -> dict[str, object] | None:
    """The settings that a run began with. None without a run: the config.yaml of other tools has no dotted keys."""
    try:
        settings = yaml.safe_load(read_text(folder / CONFIG_FILE))
    except (OSError, yaml.YAMLError, ValueError):
        return None
    if not isinstance(settings, dict) or not any("." in str(key) for key in settings):
        return None
    return settings


def _is_same_run(previous: Mapping[str, object], settings: Mapping[str, object]) -> bool:
    if any(previous.get(key) != value for key, value in settings.items() if key != MAX_STEPS):
        return False
    return MAX_STEPS not in settings or previous.get(MAX_STEPS, 0) <= settings[MAX_STEPS]


def _has_fewer_steps(result: Path, settings: Mapping[str, object]) -> bool:
    try:
        return json.loads(read_text(result))["step"] < settings[MAX_STEPS]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _find_foreign(folder: Path) -> str | None:
    """The name of something in a folder that is of no run. Hidden files and W&B's logs do not count."""
    if not folder.is_dir() or _read_config(folder) is not None:
        return None
    names = sorted(path.name for path in folder.iterdir())
    return next((name for name in names if not name.startswith(".") and name != "wandb"), None)
