"""Whether the files of a network are there, without torch, so that commands say at once what is missing."""

from pathlib import Path

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def check_network_folder(folder: str | Path, *, kind: str) -> None:
    """Raises ValueError if one of the two files is missing. Cheap, so it comes before any large file is read.

    Args:
        kind: What the folder should hold, for the error: `a hypernetwork`.
    """
    for path in (Path(folder, CONFIG), Path(folder, WEIGHTS)):
        if not path.is_file():
            raise ValueError(f"{kind} needs {CONFIG} and {WEIGHTS}: {path} is missing")


def check_hypernet(path: Path) -> None:
    """Raises ValueError if there is neither a checkpoint nor the folder of a hypernetwork."""
    if path.suffix != ".ckpt":
        check_network_folder(path, kind="a hypernetwork")
    elif not path.is_file():
        raise ValueError(f"no checkpoint at {path}")


def resolve_checkpoint(name: str) -> Path:
    """last.ckpt or hypernet/ of a run's folder, else the path itself: a checkpoint or a hypernetwork's folder."""
    path = Path(name)
    if (path / "last.ckpt").is_file():
        return path / "last.ckpt"
    return path / "hypernet" if (path / "hypernet" / CONFIG).is_file() else path
