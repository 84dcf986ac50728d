"""Several processes of one run, started by Lightning's launcher, torchrun or SLURM.

Every process runs the whole command. Rank 0 prints, decides and writes for all; people, shards of thetas and batches
are divided among the ranks.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hdb.files import write_json
from hdb.training.device import configure_device, probe_trainer
from hdb.training.options import ProcessOptions

T = TypeVar("T")
Items = TypeVar("Items", bound=Sequence | torch.Tensor)

LOST_PROCESS = (
    "another process of this run is gone: whatever was saved is whole, and the same command goes on from there"
)
GRACE_PERIOD = 20  # seconds in which a process that lost another one may end by itself
_LOST_PROCESS_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
_finished = threading.Event()  # set once the end of another process is no failure


def start_processes(options: ProcessOptions, *, accelerator: str) -> torch.device:
    """Starts the other processes, or joins those that torchrun or SLURM started. Returns this process's device.

    Raises:
        ValueError: This machine does not have the accelerator, the devices or the strategy.
    """
    trainer = probe_trainer(accelerator=accelerator, **options.trainer_args)
    strategy = trainer.strategy
    if trainer.world_size > 1 and not dist.is_initialized():
        if strategy.launcher is not None:
            strategy.launcher.launch(lambda: None, trainer=trainer)
        strategy.setup_environment()
        _watch_processes(getattr(strategy.launcher, "procs", []))
        if not is_rank_zero():
            sys.stdout = open(os.devnull, "w")  # messages are printed once
    return configure_device(strategy.root_device)


def rank() -> int:
    """The number of this process, 0 if there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_rank_zero() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def rank_shard(items: Items) -> Items:
    """This process's share: every `world_size`-th item."""
    return items[rank() :: world_size()]


def barrier() -> None:
    """Waits until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def all_gather(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks."""
    values: list[Any] = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def broadcast_from_rank_zero(function: Callable[[], T]) -> T:
    """Calls the function on rank 0 and returns its result on all ranks. If it raises, the others exit silently."""
    if not dist.is_initialized():
        return function()
    message: list[Any] = [None, False]  # result, whether there is one
    if is_rank_zero():
        try:
            message = [function(), True]
        finally:
            dist.broadcast_object_list(message)
    else:
        dist.broadcast_object_list(message)
        if not message[1]:
            sys.exit(0)
    return message[0]


@contextmanager
def on_rank_zero(context: AbstractContextManager[T]) -> Iterator[T]:
    """Enters a context manager on rank 0 only. All ranks get its value."""
    if not is_rank_zero():
        yield broadcast_from_rank_zero(lambda: None)
        return
    value = broadcast_from_rank_zero(context.__enter__)
    try:
        yield value
    except BaseException as error:
        if not context.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        context.__exit__(None, None, None)


def write_json_on_rank_zero(path: Path, content: object) -> None:
    """Writes a JSON file on rank 0."""
    if is_rank_zero():
        write_json(path, content)


def continue_on_rank_zero() -> None:
    """Ends all processes but rank 0, which continues as the only one."""
    if dist.is_initialized():
        stays = is_rank_zero()
        barrier()
        mark_finished()
        dist.destroy_process_group()
        if not stays:
            sys.exit(0)


def single_process_trainer_args(device: torch.device) -> dict[str, Any]:
    """The arguments of a Trainer that runs in this process only."""
    return {"devices": 1 if device.index is None else [device.index]}


def mark_finished() -> None:
    """Declares that this process ends as planned, so that the end of another one is no failure any more."""
    _finished.set()


def is_lost_process_error(error: BaseException) -> bool:
    """Whether an error says that another process of this run has died."""
    return dist.is_initialized() and any(sign in str(error).lower() for sign in _LOST_PROCESS_SIGNS)


def report_lost_process() -> int:
    """Prints that another process has died and returns the exit code."""
    print(f"error: {LOST_PROCESS}", file=sys.stderr, flush=True)
    return 2


def _watch_processes(children: Sequence[subprocess.Popen]) -> None:
    """Ends this process if its parent or one of its children dies. Otherwise it would wait for them for hours."""
    parent = None if rank_zero_only.rank == 0 else os.getppid()

    def is_any_dead() -> bool:
        return any(child.poll() for child in children) or (parent is not None and os.getppid() != parent)

    def watch() -> None:
        while not is_any_dead():
            if _finished.wait(0.5):
                return
        exit_code = report_lost_process()
        time.sleep(GRACE_PERIOD)
        os._exit(exit_code)

    threading.Thread(target=watch, daemon=True).start()
