"""The folder of a run: locked while it runs, resumed after an interruption, set aside for another run."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from hdb.files import write_text
from hdb.runs.locks import locked, somebody_within
from hdb.runs.logger import RUN_ID
from hdb.runs.outputs import check_room, refuse_inputs

RECORD = "config.yaml"
LAST = "last.ckpt"
_STEPS = "max_steps"  # a finished run resumes if it asks for more of them
Reads = Sequence[tuple[str, Path]]


@contextmanager
def run_folder(folder: str | Path, settings: Mapping[str, object], *, result: str, reads: Reads = ()) -> Iterator[bool]:
    """Makes `folder` ready for a run of these settings, and keeps others out of it within the `with` block.

    Gives true if a run is resumed: an unfinished one of the same settings. A folder with a finished run (it holds
    `result`), or one of other settings, is renamed to folder.1, .2, ...; a finished one that had fewer steps is resumed
    from its last checkpoint.

    Args:
        settings: all that the result depends on.
        reads: what the run reads, and what that is called.

    Raises:
        ValueError: somebody else works there, it is no run's folder, or an input lies in it.
    """
    with locked(folder):
        yield _claimed(Path(folder), dict(settings), result, reads)


@contextmanager
def added_to(folder: str | Path, reads: Reads) -> Iterator[None]:
    """Keeps others out of a folder that many runs add to within the `with` block.

    Raises:
        ValueError: somebody else works there, it cannot be written, or an input lies in it.
    """
    check_room(folder, is_folder=True)
    refuse_inputs(folder, reads)
    with locked(folder):
        yield


def check_folder(folder: str | Path, reads: Reads) -> None:
    """Raises ValueError if no run can write there: before networks are read."""
    check_room(folder, is_folder=True)
    refuse_inputs(folder, reads)
    if foreign := _foreign(Path(folder)):
        raise ValueError(f"{folder} holds {foreign}, which is of no run: expected a new or empty folder as output")


def _claimed(folder: Path, settings: dict[str, object], result: str, reads: Reads) -> bool:
    begun, finished = _record(folder), (folder / result).exists()
    if begun is None:
        check_folder(folder, reads)
        return _begin(folder, settings)
    goes_on = _goes_on(begun, settings)
    if goes_on and not finished:
        print(f"going on with the unfinished run in {folder}")
        _begin(folder, settings)
        return True
    refuse_inputs(folder, reads)
    if lock := somebody_within(folder):
        raise ValueError(f"a run goes on within {folder} ({lock}): wait for its end, or give another output")
    folder = folder.resolve()  # of a link the folder is renamed, and the link leads to the new one
    number = next(n for n in range(1, 100_000) if not os.path.lexists(folder.with_name(f"{folder.name}.{n}")))
    aside = folder.rename(folder.with_name(f"{folder.name}.{number}"))
    print(f"the earlier run in {folder} is now in {aside}")
    _begin(folder, settings)
    if not (goes_on and _has_fewer_steps(aside / result, settings) and (aside / LAST).is_file()):
        return False
    for name in (LAST, RUN_ID):
        if (aside / name).is_file():
            shutil.copy2(aside / name, folder / name)
    print(f"going on from its last step, to step {settings[_STEPS]}")
    return True


def _begin(folder: Path, settings: dict[str, object]) -> bool:
    write_text(folder / RECORD, yaml.safe_dump(settings, sort_keys=False))
    return False


def _record(folder: Path) -> dict[str, object] | None:
    """What the run in a folder was begun with; None where there is none: a config.yaml of other tools has no dots."""
    try:
        begun = yaml.safe_load((folder / RECORD).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return begun if isinstance(begun, dict) and any("." in str(key) for key in begun) else None


def _goes_on(begun: Mapping[str, object], settings: Mapping[str, object]) -> bool:
    if any(begun.get(key) != value for key, value in settings.items() if key != _STEPS):
        return False
    return _STEPS not in settings or begun.get(_STEPS, 0) <= settings[_STEPS]


def _has_fewer_steps(result: Path, settings: Mapping[str, object]) -> bool:
    try:
        return json.loads(result.read_text())["step"] < settings[_STEPS]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _foreign(folder: Path) -> str | None:
    """Something in a folder that no run's record accounts for; hidden files and W&B's logs do not count."""
    if not folder.is_dir() or _record(folder) is not None:
        return None
    names = sorted(path.name for path in folder.iterdir())
    return next((name for name in names if not name.startswith(".") and name != "wandb"), None)
