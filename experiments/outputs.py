"""The files that a command writes: they replace no input, and no second call writes them meanwhile."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.config import dotted
from experiments.config.loading import WRITTEN
from hdb.runs.locks import locked
from hdb.runs.outputs import check_room, refuse_foreign, refuse_inputs, resolve_output


@contextmanager
def claim_files(*files: Path, config: object, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[None]:
    """Checks that a command may write these files, and holds their lock within the `with` block.

    Args:
        config: names what is read.
        overwrite: whether files that no earlier call wrote may be replaced. Inputs never are.
        inputs: files that are read beside those that the config names.

    Raises:
        ValueError: they cannot or must not be written, or another process writes them.
    """
    all_inputs = find_inputs(config, *inputs)
    for file in files:
        check_room(file)
        refuse_inputs(file, all_inputs)
        if file.is_dir():
            raise ValueError(f"{file} is a folder, expected the name of a file to write")
        if not overwrite:
            refuse_foreign(file)
    with locked(files[0]):
        yield


def resolve_safetensors_output(output: str) -> Path:
    """Where a safetensors file goes.

    Raises:
        ValueError: its name does not end so.
    """
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output is {output!r}, expected a file name ending in .safetensors")
    return resolve_output(output, is_file=True)


def find_inputs(config: object, *more: Path) -> list[tuple[str, Path]]:
    """(name, path) of every setting that is the path of something that exists, but those that say where to write.

    Args:
        more: paths that are read beside these.
    """
    inputs = [("what is read", path) for path in more]
    for name, value in dotted(config).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text and name not in WRITTEN and _exists(text):
                inputs.append((name, Path(text)))
    return inputs


def _exists(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except (OSError, ValueError):  # not a path: too long, or with a zero byte
        return False
