"""Checks that an output may be written: it replaces no input and no foreign file, and there is room for it."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from hdb.files import SOFTWARE, read_safetensors_header, read_text


def resolve_output(output: str | Path, *, is_file: bool = False) -> Path:
    """The output, or one per run where a W&B agent starts many runs with the same words.

    A folder `outputs/pretrain` becomes `outputs/pretrain-<sweep>/<run>`, a file `me.safetensors` becomes
    `<sweep>/<run>/me.safetensors`.
    """
    output = Path(output)
    sweep = os.environ.get("WANDB_SWEEP_ID")
    run = os.environ.get("WANDB_RUN_ID")
    if not sweep or not run or run in output.parts:
        return output
    if is_file:
        return output.parent / sweep / run / output.name
    return output.resolve().with_name(f"{output.resolve().name}-{sweep}") / run


def refuse_inputs(output: str | Path, inputs: Iterable[tuple[str, Path]], *, within: bool = True) -> None:
    """Raises ValueError if an input is the output, or lies within it. Paths are compared resolved.

    Args:
        inputs: (name of the setting, path) of everything that is read.
        within: False where files are only added to a folder.
    """
    resolved_output = Path(output).resolve()
    for name, path in inputs:
        resolved = path.resolve()
        is_same = resolved == resolved_output or (
            resolved_output.exists() and resolved.exists() and os.path.samefile(resolved, resolved_output)
        )
        if is_same or (within and resolved_output in resolved.parents):
            raise ValueError(f"output {output} would take the place of {path} ({name}): expected another output")


def refuse_foreign(file: Path) -> None:
    """Raises ValueError if there is a file that this project did not write."""
    if os.path.lexists(file) and not is_made_here(file):
        raise ValueError(f"{file} is there and not of an earlier call: expected another output, or overwrite=true")


def check_room(output: str | Path, *, is_folder: bool = False) -> None:
    """Raises ValueError if a file, or a folder, of this name cannot be written."""
    path = Path(output).absolute()
    if is_folder and path.is_file():
        raise ValueError(f"output {output} is a file, expected the name of a folder")
    existing = next(parent for parent in path.parents if os.path.lexists(parent))
    longest = _longest_name(existing)
    for part in path.relative_to(existing).parts:
        size = len(os.fsencode(part))
        if size > longest:
            raise ValueError(f"output has a name of {size} bytes ({part[:30]}...), expected at most {longest}")
    folder = path if path.is_dir() else existing
    try:
        # Permissions are not enough: a file system may be read-only, and root has every permission.
        descriptor, trial_file = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
    except OSError as error:
        raise ValueError(f"output {output} cannot be written: {folder}: {error.strerror or error}") from None
    os.close(descriptor)
    os.unlink(trial_file)


def is_made_here(path: Path) -> bool:
    """Whether a file says that this project wrote it: a picture, a subject, an export, a card."""
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                return image.info.get("Software") == SOFTWARE
        content = json.loads(read_text(path)) if path.suffix == ".json" else read_safetensors_header(path)[1]
        return "hdb_version" in content
    except (OSError, ValueError, SyntaxError):
        return False


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        return 255
