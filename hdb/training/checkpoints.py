"""Checkpoints: written atomically, with the previous one kept for the case that the last one is damaged."""

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

# What torch, pickle and zipfile raise for damaged files.
_READ_ERRORS = (zipfile.BadZipFile, UnpicklingError, RuntimeError, OSError, ValueError, KeyError, EOFError, TypeError)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their target and renames them; the file that was there becomes the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getbuffer())
            if Path(path).is_file():
                _keep_as_previous(Path(path))


class CheckpointOnStop(ModelCheckpoint):
    """Saves also when a run is stopped, which happens between two steps, but not after an error within a step."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            super().on_exception(trainer, pl_module, exception)


def last_checkpoint_callback(last: Path, *, every: int) -> ModelCheckpoint:
    """The callback that writes the checkpoint `last` every so many steps and when the run is stopped."""
    return CheckpointOnStop(
        dirpath=last.parent,
        filename=last.stem,
        every_n_train_steps=every,
        save_on_exception=True,
        enable_version_counter=False,
    )


def best_checkpoint_callback(best: Path, *, metric: str, mode: str) -> ModelCheckpoint:
    """The callback that keeps the checkpoint of the best validation as `best`.

    Args:
        mode: Whether the best value of the metric is the `max` or the `min`.
    """
    return ModelCheckpoint(
        dirpath=best.parent, filename=best.stem, monitor=metric, mode=mode, enable_version_counter=False
    )


def previous_checkpoint_path(last: Path) -> Path:
    """Where the checkpoint before `last` is kept."""
    return last.with_name(f"{last.stem}.previous{last.suffix}")


def find_checkpoint(last: Path) -> Path | None:
    """The checkpoint to resume from: `last`, or the previous one if `last` is damaged, or None if there is none.

    Damaged checkpoints are renamed, and the user is told.
    """
    message = ""
    for path in (last, previous_checkpoint_path(last)):
        if not path.is_file():
            continue
        damage = _describe_damage(path)
        if damage:
            message = f"{path} is damaged ({damage})"
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            print(f"{message} and now called {path.name}.damaged")
            continue
        if path != last:
            print(f"going on from {path}, the checkpoint before" if message else f"going on from {path}")
        return path
    if message:
        print(f"no checkpoint in {last.parent} can be read: beginning at the first step")
    return None


def remove_checkpoints(last: Path) -> None:
    """Removes `last` and the previous checkpoint."""
    last.unlink(missing_ok=True)
    previous_checkpoint_path(last).unlink(missing_ok=True)


def _keep_as_previous(path: Path) -> None:
    spare = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp")
    try:
        os.link(path, spare)  # a link and not a rename: `path` exists at every moment
        os.replace(spare, previous_checkpoint_path(path))
    except OSError:  # the file system has no links
        spare.unlink(missing_ok=True)
        os.replace(path, previous_checkpoint_path(path))


def _describe_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged_part = archive.testzip()
        if damaged_part is not None:
            return f"its part {damaged_part} is not as it was written"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        is_complete = {"state_dict", "global_step"} <= set(checkpoint)
    except _READ_ERRORS as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None if is_complete else "it is no checkpoint of a training"
