"""What may be written to: nothing that is read, nothing of others unless told, nowhere in vain."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from hdb.files import SOFTWARE, read_safetensors_header


def refuse_inputs(output: str | Path, reads: Iterable[tuple[str, Path]], *, within: bool = True) -> None:
    """Raises ValueError if something that is read is the output, or lies within it; by their resolved paths.

    Args:
        reads: what it is called, and where it is.
        within: false where a folder is only added to.
    """
    place = Path(output).resolve()
    for name, path in reads:
        read = path.resolve()
        same = place.exists() and read.exists() and os.path.samefile(read, place)
        if same or read == place or (within and place in read.parents):
            raise ValueError(f"output {output} would take the place of {path} ({name}): expected another output")


def refuse_foreign(file: Path) -> None:
    """Raises ValueError if a file is there that this project did not make."""
    if os.path.lexists(file) and not made_here(file):
        raise ValueError(f"{file} is there and not of an earlier call: expected another output, or overwrite=true")


def check_room(output: str | Path, *, is_folder: bool = False) -> None:
    """Raises ValueError if a file, or a folder, of this name cannot be written."""
    place = Path(output).absolute()
    if is_folder and place.is_file():
        raise ValueError(f"output {output} is a file, expected the name of a folder")
    folder = next(parent for parent in place.parents if os.path.lexists(parent))
    for part in place.relative_to(folder).parts:
        if (size := len(os.fsencode(part))) > (most := _longest_name(folder)):
            raise ValueError(f"output has a name of {size} bytes ({part[:30]}...), expected at most {most}")
    try:
        # Rights alone do not tell: file systems are mounted read-only, and root has every right.
        within = place if place.is_dir() else folder
        descriptor, trial = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=within)
    except OSError as error:
        raise ValueError(f"output {output} cannot be written: {within}: {error.strerror or error}") from None
    os.close(descriptor)
    os.unlink(trial)


def made_here(path: Path) -> bool:
    """Whether a file says that it is this project's: a picture, a subject's file, what was exported of one."""
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                return image.info.get("Software") == SOFTWARE
        return "hdb_version" in (
            json.loads(path.read_text()) if path.suffix == ".json" else read_safetensors_header(path)[1]
        )
    except (OSError, ValueError, SyntaxError):
        return False


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        return 255
