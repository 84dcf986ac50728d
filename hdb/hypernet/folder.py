"""A network's folder: config.json beside model.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hdb.files import write_files

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_network(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes both files or neither; what was there before stays if that fails.

    Raises:
        OSError: they could not be written, for instance because the disk is full; nothing is left behind.
    """
    weights = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata)
    contents = {CONFIG: json.dumps(config, indent=1).encode(), WEIGHTS: weights}
    write_files({Path(folder, name): content for name, content in contents.items()})


def check_network_folder(folder: str | Path, *, kind: str) -> None:
    """Raises ValueError if a folder lacks one of the two files: before something large is read for nothing."""
    for needed in (Path(folder, CONFIG), Path(folder, WEIGHTS)):
        if not needed.is_file():
            raise ValueError(f"{kind} needs {CONFIG} and {WEIGHTS}: {needed} is missing")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config alone, which says the shape; raises ValueError if it is not there or unreadable."""
    path = Path(folder, CONFIG)
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected the folder of a network")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None


def read_network(folder: str | Path, *, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Config, state and the metadata of the weights; nothing in the files is executed.

    Args:
        kind: what the folder should hold, for the message.

    Raises:
        ValueError: a file is missing or unreadable.
    """
    folder = Path(folder)
    check_network_folder(folder, kind=kind)
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, "pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, RecursionError) as error:
        raise ValueError(f"{folder} holds no readable {kind.removeprefix('a ')}: {error}") from None
    if not isinstance(config, dict):
        given = f"{CONFIG} is {type(config).__name__}, expected names and values"
        raise ValueError(f"{folder} holds no readable {kind.removeprefix('a ')}: {given}")
    return config, *content
