"""safetensors files: their header read without trusting them, the whole written or nothing."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor


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


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Writes a safetensors file under a temporary name and renames it: there is a whole file or none.

    Raises:
        OSError: It could not be written; says how many bytes were to be. Nothing is left behind.
    """
    path = Path(path)
    content = save(tensors, metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            # Else a full disk or a crash may show only after the rename, in a file of the right name and no content.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"could not save {len(content)} bytes to {path}: {reason}; nothing was written") from error
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)
    return path
