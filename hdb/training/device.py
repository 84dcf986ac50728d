"""Where a Trainer works, and the time there."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hdb.limits import choice_field


def accelerator_field() -> Any:
    """A setting that names where a Trainer works."""
    return choice_field("auto", ("auto", "cpu", "gpu", "cuda", "mps", "tpu"))


def precision_field() -> Any:
    """A setting that names the precision a Trainer works in."""
    names = ("32-true", "16-mixed", "bf16-mixed", "64-true", "32", "16", "bf16", "64")
    message = "{name} is {value!r}, expected one of {expected}: what is trained stays in float32"
    return choice_field("32-true", names, message=message)


def check_precision(precision: str, dtype: str) -> None:
    """Raises ValueError if a base of this precision loses gradients in a training of that one, or is cast throughout.

    Half-precision gradients flow through a half-precision base whatever the Trainer computes in. Those of float16 need
    its scaler, or most of them vanish; those of bfloat16 need none.
    """
    scaled = precision in ("16-mixed", "16")
    if dtype == "float16" and not scaled:
        given = f"the base is in float16 and precision is {precision!r}, where no scaler keeps its gradients"
        raise ValueError(f"{given}: expected precision 16-mixed, or a base in bfloat16")
    if dtype == "bfloat16" and scaled:
        given = f"the base is in bfloat16 and precision is {precision!r}, which would cast all of it at every step"
        raise ValueError(f"{given}: expected precision bf16-mixed, or a base in float16")


def select_device(accelerator: str) -> torch.device:
    """Where a Trainer with this accelerator works; raises as `probe_trainer`."""
    return configure_device(probe_trainer(accelerator=accelerator, devices=1).strategy.root_device)


def probe_trainer(**where: Any) -> Trainer:
    """A Trainer that is only asked where it works.

    Args:
        where: its accelerator, devices, num_nodes, strategy.

    Raises:
        ValueError: this machine has no such place.
    """
    try:
        return Trainer(logger=False, enable_progress_bar=False, **where)
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        given = " ".join(f"{name}={value}" for name, value in where.items())
        raise ValueError(f"this machine has no {given} ({error}): expected what it has, as auto does") from None


def configure_device(device: torch.device) -> torch.device:
    """The device; on a GPU products of float32 matrices are from now on in TF32, three times as fast as in full."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device


def synchronized_time(device: torch.device) -> float:
    """The time at which everything started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    started = synchronized_time(device)
    work()
    return synchronized_time(device) - started
