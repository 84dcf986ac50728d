"""Checkpoints: written whole beside their place; the one before is kept, and taken where the last is damaged."""

import io
import os
import secrets
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hdb.files import atomic_write

# What torch, pickle and zipfile raise on files that are damaged, whichever way.
_UNREADABLE = (zipfile.BadZipFile, UnpicklingError, RuntimeError, OSError, ValueError, KeyError, EOFError, TypeError)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's files, staged beside the target and not in a temporary folder, from where they would be copied."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getbuffer())
            if Path(path).is_file():
                _keep(Path(path))


class Saver(ModelCheckpoint):
    """Saves also where a run is stopped, which is between two steps; not after an error, which may be within one."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            super().on_exception(trainer, pl_module, exception)


def last_checkpoint_callback(last: Path, *, every: int) -> ModelCheckpoint:
    """What writes `last` every so many steps, and when a run is stopped."""
    return Saver(
        dirpath=last.parent,
        filename=last.stem,
        every_n_train_steps=every,
        save_on_exception=True,
        enable_version_counter=False,
    )


def best_checkpoint_callback(best: Path, *, metric: str, mode: str) -> ModelCheckpoint:
    """What keeps as `best` the checkpoint of the validation with the best `metric`.

    Args:
        mode: max or min, which is the best.
    """
    return ModelCheckpoint(
        dirpath=best.parent, filename=best.stem, monitor=metric, mode=mode, enable_version_counter=False
    )


def previous_checkpoint_path(last: Path) -> Path:
    """Where the checkpoint before is kept."""
    return last.with_name(f"{last.stem}.previous{last.suffix}")


def find_checkpoint(last: Path) -> Path | None:
    """The checkpoint to resume from: `last`, or the one before if that is damaged; None if there is none.

    Says so, and sets a damaged one aside.
    """
    found: str = ""
    for path in (last, previous_checkpoint_path(last)):
        if not path.is_file():
            continue
        if damage := _damage(path):
            found = f"{path} is damaged ({damage})"
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            print(f"{found} and now called {path.name}.damaged")
            continue
        if path != last:
            print(f"going on from {path}, the checkpoint before" if found else f"going on from {path}")
        return path
    if found:
        print(f"no checkpoint in {last.parent} can be read: beginning at the first step")
    return None


def remove_checkpoints(last: Path) -> None:
    """Removes what is of no use any more."""
    last.unlink(missing_ok=True)
    previous_checkpoint_path(last).unlink(missing_ok=True)


def _keep(path: Path) -> None:
    spare = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp")
    try:
        os.link(path, spare)  # there is a whole `path` at every moment
        os.replace(spare, previous_checkpoint_path(path))
    except OSError:  # a file system without links
        spare.unlink(missing_ok=True)
        os.replace(path, previous_checkpoint_path(path))


def _damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            if (torn := archive.testzip()) is not None:
                return f"its part {torn} is not as it was written"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return None if {"state_dict", "global_step"} <= set(checkpoint) else "it is no checkpoint of a training"
    except _UNREADABLE as error:
        return " ".join(str(error).split()) or type(error).__name__
