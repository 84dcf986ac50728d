"""Files: written whole or not at all, in one place; texts in any of Unicode's forms; headers of safetensors."""

import codecs
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

ROOT = Path(__file__).parents[1]  # what holds hdb/ and configs/: a checkout, or site-packages
SHIPPED_FOLDERS = ("hdb/faceworld/weights", "configs")  # what lies there for others to read
SOFTWARE = "hdb"  # stands in every picture: one without it is not ours to replace
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def resolve_shipped(path: str | Path) -> Path:
    """What the project ships, by its name in the repository, from any folder: beside the package if it is not here.

    >>> resolve_shipped("configs/faceworld/generate.yaml").is_file(), resolve_shipped("me.png")
    (True, PosixPath('me.png'))
    """
    path = Path(path)
    ours = path.as_posix().startswith(tuple(f"{name}/" for name in SHIPPED_FOLDERS))
    return ROOT / path if ours and not path.exists() and (ROOT / path).exists() else path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` for a file or a folder, which gets its name once the `with` block is done.

    What an older file of this name held survives a failure, and of the new one nothing is left. The temporary name is
    drawn, so that two writers of one file do not write into each other's, and short where the name is long: a name that
    the file system takes needs no room beside it.

    Raises:
        OSError: It could not be written; names the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            # Else a full disk or a crash may show only after the rename, in a file of the right name and no content.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except SafetensorError as error:  # its writer's word for a full disk
        raise OSError(None, str(error), str(path)) from error
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
                stack.enter_context(atomic_write(path)).write_bytes(content)
    except OSError as error:
        (first, *more), size = contents, sum(map(len, contents.values()))
        where = first.parent if more else first
        reason = error.strerror or error
        which = f" ({Path(error.filename).name})" if more and error.filename else ""
        raise OSError(f"could not save {size} bytes to {where}: {reason}{which}; nothing was written") from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole file or none."""
    write_files({Path(path): text.encode()})


def write_json(path: str | Path, content: object) -> None:
    """Writes a whole JSON file or none."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_safetensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Path:
    """Writes a whole safetensors file of torch's tensors, or none."""
    from safetensors.torch import save  # only here: who reads a header need not wait for torch

    write_files({Path(path): save(dict(tensors), dict(metadata))})
    return Path(path)


def content_hash(tensors: Mapping[str, Any]) -> str:
    """SHA-256 of what a safetensors file of these tensors has behind its header, as ModelSpec writes it: 0x..."""
    from safetensors.torch import save  # as above

    content = memoryview(save(dict(tensors)))
    return "0x" + hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, or in UTF-16 or 32, with a byte-order mark or, of UTF-16, without.

    Raises:
        ValueError: It is no text in any of them; names the file.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:200]:  # no text in UTF-8 has it, and every line break in UTF-16
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 or UTF-16 ({error.reason} at byte {error.start})") from None


def read_safetensors_header(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
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
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header: {error}; expected a safetensors file") from error
    if size != expected_size:
        problem = "cut off" if size < expected_size else "too long"
        raise ValueError(f"{path} is {problem}: it has {size} bytes, expected {expected_size}")
    return tensors, metadata
