"""The device and precision of a Trainer, and wall-clock times measured there."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException


def select_device(accelerator: str) -> torch.device:
    """The device that a Trainer with this accelerator uses, configured by `configure_device`.

    Raises:
        ValueError: This machine does not have the accelerator.
    """
    trainer = probe_trainer(accelerator=accelerator, devices=1)
    return configure_device(trainer.strategy.root_device)


def probe_trainer(**trainer_args: Any) -> Trainer:
    """A Trainer that runs nothing and is only asked for its device, strategy and world size.

    Args:
        trainer_args: Its accelerator, devices, num_nodes and strategy.

    Raises:
        ValueError: This machine does not have them.
    """
    try:
        return Trainer(logger=False, enable_progress_bar=False, **trainer_args)
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        given = " ".join(f"{name}={value}" for name, value in trainer_args.items())
        raise ValueError(f"this machine has no {given} ({error}): expected what it has, as auto does") from None


def configure_device(device: torch.device) -> torch.device:
    """Allows TF32 on a GPU, where float32 matrix products become three times as fast. Returns the device."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device


def synchronized_time(device: torch.device) -> float:
    """The time in seconds after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, including the work that it queues on the device."""
    start = synchronized_time(device)
    function()
    return synchronized_time(device) - start
