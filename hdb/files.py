"""Reading and writing of files: atomic writes, texts in any Unicode encoding, headers of safetensors files."""

import codecs
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

ROOT = Path(__file__).parents[1]  # the folder that holds hdb/ and configs/: a checkout, or site-packages
SHIPPED_FOLDERS = ("hdb/faceworld/weights", "configs")
SOFTWARE = "hdb"  # written into every picture, so that only pictures of this program are overwritten
# The longer byte-order marks first, because that of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def resolve_shipped(path: str | Path) -> Path:
    """Finds a shipped file or folder by its path in the repository, whatever the working directory is.

    Paths that exist in the working directory, and paths outside of the shipped folders, are returned as they are.

    >>> resolve_shipped("configs/faceworld/generate.yaml").is_file(), resolve_shipped("me.png")
    (True, PosixPath('me.png'))
    """
    path = Path(path)
    is_shipped = path.as_posix().startswith(tuple(f"{folder}/" for folder in SHIPPED_FOLDERS))
    if is_shipped and not path.exists() and (ROOT / path).exists():
        return ROOT / path
    return path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for a file or folder, and renames it to `path` after the `with` block.

    If the block fails, an older file of this name stays as it is and the temporary one is removed. The temporary name
    is random, so two writers of one file do not interfere, and short, so it is valid wherever `path` is.

    Raises:
        OSError: It could not be written. Names the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            # Without fsync, a crash or a full disk could leave an empty file under the final name.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except SafetensorError as error:  # raised by safetensors for a full disk
        raise OSError(None, str(error), str(path)) from error
    finally:
        with suppress(OSError):  # an error of the cleanup must not hide the one of the writing
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes several files or none: all under temporary names first, then all are renamed.

    Raises:
        OSError: They could not be written, and none is left behind. States the number of bytes.
    """
    try:
        with ExitStack() as stack:
            for path, content in reversed(contents.items()):  # the stack renames in reverse: the first file is last
                stack.enter_context(atomic_write(path)).write_bytes(content)
    except OSError as error:
        first, *others = contents
        size = sum(map(len, contents.values()))
        target = first.parent if others else first
        failed_file = f" ({Path(error.filename).name})" if others and error.filename else ""
        reason = f"{error.strerror or error}{failed_file}"
        raise OSError(f"could not save {size} bytes to {target}: {reason}; nothing was written") from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically."""
    write_files({Path(path): text.encode()})


def write_json(path: str | Path, content: object) -> None:
    """Writes a JSON file atomically. A number that is not finite becomes null, because JSON has none."""
    write_text(path, json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_safetensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Path:
    """Writes torch tensors as a safetensors file atomically."""
    from safetensors.torch import save  # imported here because reading a header must not load torch

    write_files({Path(path): save(dict(tensors), dict(metadata))})
    return Path(path)


def content_hash(tensors: Mapping[str, Any]) -> str:
    """SHA-256 of the tensor data of a safetensors file, without its header, in ModelSpec's form 0x..."""
    from safetensors.torch import save  # as in write_safetensors

    content = memoryview(save(dict(tensors)))
    header_length = int.from_bytes(content[:8], "little")
    return "0x" + hashlib.sha256(content[8 + header_length :]).hexdigest()


def read_text(path: str | Path) -> str:
    """Reads a text file in UTF-8, UTF-16 or UTF-32. UTF-16 needs no byte-order mark.

    Raises:
        ValueError: It is not text in any of these encodings.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:200]:  # UTF-8 text has no zero bytes, and UTF-16 has one per line break
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 or UTF-16 ({error.reason} at byte {error.start})") from None


def read_safetensors_header(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads the header of a safetensors file and checks it, without reading a tensor.

    Returns:
        {tensor name: {"dtype", "shape", "data_offsets"}} and the metadata.

    Raises:
        ValueError: There is no such file, or it is a pickled checkpoint, truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{":
            # torch.save writes a zip archive or, in old versions, a bare pickle. Loading either can run code.
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
