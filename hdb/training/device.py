"""Where a Trainer works, and the time there."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Trainer

from hdb.limits import one_of


def accelerator() -> Any:
    """A setting that names where a Trainer works."""
    return one_of("auto", "auto", "cpu", "gpu", "cuda", "mps", "tpu")


def precision() -> Any:
    """A setting that names the precision a Trainer works in."""
    names = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "32", "16", "bf16", "64")
    return one_of("32-true", *names)


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
