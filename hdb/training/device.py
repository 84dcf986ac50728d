"""Where a Trainer works, and the time there."""

import time
from collections.abc import Callable

import torch
from lightning import Trainer


def device_of(accelerator: str) -> torch.device:
    """Where a Trainer with this accelerator works."""
    return Trainer(accelerator=accelerator, devices=1, logger=False, enable_progress_bar=False).strategy.root_device


def now(device: torch.device) -> float:
    """The time at which everything started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    started = now(device)
    work()
    return now(device) - started
