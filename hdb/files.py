"""Files: written whole or not at all, in one place; headers of safetensors read without trusting them."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` for a file or a folder, which gets its name once the `with` block is done.

    What an older file of this name held survives a failure, and of the new one nothing is left. The temporary name is
    the process's own, so that two processes writing one file do not write into each other's.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            # Else a full disk or a crash may show only after the rename, in a file of the right name and no content.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # whatever stopped the writing is the error to be told
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes some files that belong together: all of them under temporary names, then all renamed.

    Raises:
        OSError: They could not be written; says how many bytes were to be. Nothing is left behind.
    """
    try:
        with ExitStack() as stack:
            for path, content in reversed(contents.items()):  # a stack: the first file gets its name last
                stack.enter_context(written_whole(path)).write_bytes(content)
    except OSError as error:
        (first, *more), size = contents, sum(map(len, contents.values()))
        where = first.parent if more else first
        reason = error.strerror or error
        raise OSError(f"could not save {size} bytes to {where}: {reason}; nothing was written") from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole file or none."""
    write_files({Path(path): text.encode()})


def write_json(path: str | Path, content: object) -> None:
    """Writes a whole JSON file or none."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Writes a whole safetensors file or none."""
    write_files({Path(path): save(dict(tensors), dict(metadata))})
    return Path(path)


def read_header(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The header of a safetensors file: {tensor name: {dtype, shape, data_offsets}} and the metadata.

    Reads no tensor. Tells a pickled checkpoint by its first bytes, and a file that was cut off by its length.

    Raises:
        ValueError: There is no such file, or it is no whole safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{":
            # torch.save writes a zip archive, formerly a bare pickle. Either runs code of its author when loaded.
            if start.startswith((b"PK", b"\x80")):
                raise ValueError(f"{path} is a pickled checkpoint and was not read; expected a safetensors file")
            raise ValueError(f"{path} starts with {start!r} and is no safetensors file")
        if 8 + length > size:
            raise ValueError(f"{path} is cut off: it has {size} bytes, expected {8 + length} and more")
        text = b"{" + file.read(length - 1)
    try:
        tensors = json.loads(text)
        metadata = tensors.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is no text")
        ends = [entry["data_offsets"][1] for entry in tensors.values() if {"dtype", "shape"} <= set(entry)]
        expected_size = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged header: {error}; expected a safetensors file") from error
    if size != expected_size:
        problem = "cut off" if size < expected_size else "too long"
        raise ValueError(f"{path} is {problem}: it has {size} bytes, expected {expected_size}")
    return tensors, metadata
