"""Pictures of one gray level each, so that a tensor names its picture; as files, and in tar shards."""

import io
import tarfile
from pathlib import Path

import torch
from PIL import Image

SIDE = 16


def save_gray(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(path)
    return path


def level(picture: torch.Tensor) -> int:
    return round(picture.mean().item() * 255)


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def seven_pictures(folder: Path) -> Path:
    """A picture each of seven people, of gray level 0 to 6."""
    for number in range(7):
        save_gray(folder / f"{number}.png", number)
    return folder


def three_shards(folder: Path) -> Path:
    """Nine people in three shards; number n is called person<n> and has the gray levels 10 n and 10 n + 1."""
    folder.mkdir()
    for shard in range(3):
        people = range(3 * shard, 3 * shard + 3)
        files = {f"person{n}.{view}.png": png(10 * n + view) for n in people for view in range(2)}
        write_shard(folder / f"faces-{shard}.tar", files)
    return folder
