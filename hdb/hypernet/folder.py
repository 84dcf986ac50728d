"""Reads and writes the folder of a network: config.json and model.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hdb.files import write_files
from hdb.hypernet.network_files import CONFIG, WEIGHTS, check_network_folder


def write_network(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes both files or neither. Older files stay if that fails.

    Args:
        metadata: Of the safetensors file.

    Raises:
        OSError: They could not be written, for instance because the disk is full. Nothing is left behind.
    """
    weights = save({name: tensor.contiguous() for name, tensor in state_dict.items()}, metadata)
    write_files({Path(folder, CONFIG): json.dumps(config, indent=1).encode(), Path(folder, WEIGHTS): weights})


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads the config alone, from which an untrained network can be built.

    Raises:
        ValueError: It is missing or not JSON.
    """
    path = Path(folder, CONFIG)
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected the folder of a network")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None


def read_network(folder: str | Path, *, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Reads config, state dict and the metadata of the weights. Nothing is unpickled.

    Args:
        kind: As in `check_network_folder`.

    Raises:
        ValueError: A file is missing or unreadable.
    """
    folder = Path(folder)
    check_network_folder(folder, kind=kind)
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, "pt") as file:
            state_dict = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, RecursionError) as error:
        raise ValueError(f"{folder} holds no readable {kind.removeprefix('a ')}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"{folder} holds no readable {kind.removeprefix('a ')}: {CONFIG} is {type(config).__name__}, expected "
            "names and values"
        )
    return config, state_dict, metadata
