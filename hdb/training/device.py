"""The device and precision of a Trainer, and wall-clock times measured there."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hdb.limits import choice_field


def accelerator_field() -> Any:
    """A dataclass field with the Trainer's `accelerator`."""
    return choice_field("auto", ("auto", "cpu", "gpu", "cuda", "mps", "tpu"))


def precision_field() -> Any:
    """A dataclass field with the Trainer's `precision`."""
    names = ("32-true", "16-mixed", "bf16-mixed", "64-true", "32", "16", "bf16", "64")
    message = "{name} is {value!r}, expected one of {expected}: what is trained stays in float32"
    return choice_field("32-true", names, message=message)


def check_precision(precision: str, dtype: str) -> None:
    """Checks that the precision of the Trainer suits the dtype of the base.

    Gradients flow through a half-precision base whatever the Trainer computes in. In float16 most of them vanish
    without a gradient scaler. In bfloat16 they do not, and the scaler's autocast would cast the base at every step.

    Raises:
        ValueError: A base in float16 without `16-mixed`, or one in bfloat16 with it.
    """
    has_scaler = precision in ("16-mixed", "16")
    if dtype == "float16" and not has_scaler:
        raise ValueError(
            f"the base is in float16 and precision is {precision!r}, where no scaler keeps its gradients: "
            "expected precision 16-mixed, or a base in bfloat16"
        )
    if dtype == "bfloat16" and has_scaler:
        raise ValueError(
            f"the base is in bfloat16 and precision is {precision!r}, which would cast all of it at every step: "
            "expected precision bf16-mixed, or a base in float16"
        )


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
