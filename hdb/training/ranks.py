"""Several processes of one run. Lightning's launcher, torchrun or SLURM start them; the first of them writes.

Each process runs the whole command. What a command says once, decides once or writes once is in the hands of the first;
what can be shared out (people, shards of thetas, batches) is, by rank.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hdb.files import write_json
from hdb.limits import Limit, limited_field, number_field
from hdb.training.device import configure_device, probe_trainer

T, Items = TypeVar("T"), TypeVar("Items", bound=Sequence | torch.Tensor)
LOST_PROCESS = (
    "another process of this run is gone: whatever was saved is whole, and the same command goes on from there"
)
GRACE = 20  # s, in which a process that lost another one may end by itself
_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")  # of errors about another process
_done = threading.Event()  # from when on it is no loss that another process is gone
_AGAIN = Limit(
    lambda name: not name.endswith(("_spawn", "_fork", "_notebook")),
    "one whose processes run the whole command (auto, ddp, ddp_find_unused_parameters_true, ...)",
)


@dataclass
class ProcessOptions:
    """How many processes work together, as Lightning's Trainer takes it.

    `devices` on each of `num_nodes` machines: a number, auto, or a list like 0,2 of GPUs. On a CPU it counts processes.
    Several machines are started by torchrun or SLURM.
    """

    devices: str = "1"
    num_nodes: int = number_field(1, ge=1)
    strategy: str = limited_field("auto", _AGAIN)

    @property
    def trainer_args(self) -> dict[str, Any]:
        """Arguments of a Trainer that all processes share."""
        return {"devices": self.devices, "num_nodes": self.num_nodes, "strategy": self.strategy}


def start_processes(options: ProcessOptions, *, accelerator: str) -> torch.device:
    """Starts the other processes, or meets them where torchrun or SLURM did; returns where this one works.

    Raises:
        ValueError: this machine does not have the accelerator, the devices or the strategy.
    """
    trainer = probe_trainer(accelerator=accelerator, **options.trainer_args)
    strategy = trainer.strategy
    if trainer.world_size > 1 and not dist.is_initialized():
        if strategy.launcher is not None:
            strategy.launcher.launch(lambda: None, trainer=trainer)
        strategy.setup_environment()
        _watch(getattr(strategy.launcher, "procs", []))
        if not is_rank_zero():
            sys.stdout = open(os.devnull, "w")  # what all of them would say is said once
    return configure_device(strategy.root_device)


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes this run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_rank_zero() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def rank_shard(items: Items) -> Items:
    """This process's share: every so many-th."""
    return items[rank() :: world_size()]


def barrier() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def all_gather(value: T) -> list[T]:
    """What each process gives, in the order of their numbers."""
    values: list[Any] = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def broadcast_from_rank_zero(decide: Callable[[], T]) -> T:
    """What the first process decides; where it raises, the others end without a word."""
    if not dist.is_initialized():
        return decide()
    decided: list[Any] = [None, False]
    if is_rank_zero():
        try:
            decided = [decide(), True]
        finally:
            dist.broadcast_object_list(decided)
    else:
        dist.broadcast_object_list(decided)
        if not decided[1]:
            sys.exit(0)
    return decided[0]


@contextmanager
def on_rank_zero(context: AbstractContextManager[T]) -> Iterator[T]:
    """A context that the first process alone enters; all get what it gives."""
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
    """A JSON file, by the first process."""
    if is_rank_zero():
        write_json(path, content)


def continue_on_rank_zero() -> None:
    """Ends the other processes: what is left is for the first, to which nobody belongs from then on."""
    if dist.is_initialized():
        first = is_rank_zero()
        barrier()
        mark_finished()
        dist.destroy_process_group()
        if not first:
            sys.exit(0)


def single_process_trainer_args(device: torch.device) -> dict[str, Any]:
    """The argument of a Trainer that works in this process only."""
    return {"devices": 1 if device.index is None else [device.index]}


def mark_finished() -> None:
    """Says that this process ends as it should: from now on the others may be gone."""
    _done.set()


def is_lost_process_error(error: BaseException) -> bool:
    """Whether an error is about another process, which is not there any more."""
    return dist.is_initialized() and any(sign in str(error).lower() for sign in _SIGNS)


def report_lost_process() -> int:
    """Says that another process is gone; the exit code."""
    print(f"error: {LOST_PROCESS}", file=sys.stderr, flush=True)
    return 2


def _watch(children: Sequence[subprocess.Popen]) -> None:
    """Ends this process where one that it started, or that started it, has died: it would wait in vain for hours."""
    parent = None if rank_zero_only.rank == 0 else os.getppid()

    def dead() -> bool:
        return any(child.poll() for child in children) or (parent is not None and os.getppid() != parent)

    def look() -> None:
        while not dead():
            if _done.wait(0.5):
                return
        left = report_lost_process()
        time.sleep(GRACE)
        os._exit(left)

    threading.Thread(target=look, daemon=True).start()
