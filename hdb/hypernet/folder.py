"""A network's folder: config.json beside model.safetensors."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_network(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes both files under temporary names, then renames them; what was there before stays if that fails.

    Raises:
        OSError: they could not be written, for instance because the disk is full; nothing is left behind.
    """
    folder = Path(folder)
    weights = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata)
    contents = {WEIGHTS: weights, CONFIG: json.dumps(config, indent=1).encode()}
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            temporary[name].write_bytes(content)
        for name in contents:
            os.replace(temporary[name], folder / name)
    except OSError as error:
        raise OSError(f"could not save {len(weights)} bytes to {folder}: {error.strerror or error}") from error
    finally:
        for path in temporary.values():
            if folder.is_dir():
                path.unlink(missing_ok=True)


def read_network(folder: str | Path, *, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Config, state and the metadata of the weights; nothing in the files is executed.

    Args:
        kind: what the folder should hold, for the message.

    Raises:
        ValueError: a file is missing or unreadable.
    """
    folder = Path(folder)
    for needed in (folder / CONFIG, folder / WEIGHTS):
        if not needed.is_file():
            raise ValueError(f"{kind} needs {CONFIG} and {WEIGHTS}: {needed} is missing")
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, "pt") as file:
            return config, {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no readable {kind.removeprefix('a ')}: {error}") from None
