"""The files that a command writes: checked against what its config reads, and kept from a second call meanwhile."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.config import dotted
from experiments.config.loading import WRITTEN
from hdb.runs.locks import locked, own_place
from hdb.runs.outputs import check_room, refuse_foreign, refuse_inputs


@contextmanager
def writing(*files: Path, config: object, overwrite: bool, reads: Iterable[Path] = ()) -> Iterator[None]:
    """Checks that a command may write these files; a second call cannot within the `with` block.

    Args:
        config: whose fields name what is read.
        overwrite: files may be replaced that no earlier call made; never what is read.
        reads: what is read beside that.

    Raises:
        ValueError: they cannot or must not be written.
    """
    named = [*named_paths(config), *(("what is read", path) for path in reads)]
    for file in files:
        check_room(file)
        refuse_inputs(file, named)
        if file.is_dir():
            raise ValueError(f"{file} is a folder, expected the name of a file to write")
        if not overwrite:
            refuse_foreign(file)
    with locked(files[0]):
        yield


def place_of_file(output: str) -> Path:
    """Where a safetensors file goes; raises ValueError if it is not called so."""
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output is {output!r}, expected a file name ending in .safetensors")
    return own_place(output, is_file=True)


def named_paths(config: object) -> Iterator[tuple[str, Path]]:
    """Every text of a config that is the path of something, but those that say where to write."""
    for name, value in dotted(config).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text and name not in WRITTEN and _exists(text):
                yield name, Path(text)


def _exists(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except (OSError, ValueError):  # no path at all: too long, say
        return False
