"""Measures the cost of a piece of work on this machine: seconds, peak memory, floating-point operations."""

import resource
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hdb.training.device import measure_seconds, synchronized_time

# torch counts fused attention on GPUs only. These count it on a CPU.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class Cost:
    """The cost of a piece of work.

    Args:
        seconds: median of several runs.
        peak_bytes: most memory that was held, weights included.
        operations: floating-point operations, two per multiplication and addition.
    """

    seconds: float
    peak_bytes: int
    operations: int

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


# Operations that start nothing on a GPU, beside views.
STARTS_NOTHING = (
    "_local_scalar_dense",
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
)


class StartedOperations(TorchDispatchMode):
    """Counts the operations within a `with` block that would start at least one kernel on a GPU, by name.

    A GPU waits for Python between small kernels, so their number tells what a step costs where no graph holds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().partition("::")[2].partition(".")[0]
        if not function.is_view and name not in STARTS_NOTHING:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class StepClock(L.Callback):
    """Measures the seconds of each training step with its optimizer, without the Trainer's setup and teardown."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self.started = synchronized_time(self.device)

    def on_train_batch_end(self, *args: Any) -> None:
        self.seconds.append(synchronized_time(self.device) - self.started)


def measure_cost(
    run: Callable[[], Iterable[float]],
    *,
    device: torch.device,
    num_steps: int = 1,
    num_repeats: int = 3,
    eagerly: AbstractContextManager[None] | None = None,
) -> Cost:
    """Measures a piece of work.

    It is run once to warm up and to count the operations that are executed, forward and backward: matrix products,
    convolutions and attention. Then it is run to measure the time. On CUDA the peak is that of these runs; on a CPU it
    is the process's peak so far, which never falls.

    Args:
        run: does the work and returns the seconds of each of its steps.
        num_steps: of one run; the cost is that of one step.
        eagerly: without CUDA graphs, while operations are counted.
    """
    with eagerly or nullcontext(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        run()
    if device.type == "cuda":
        run()  # captures the graphs, which stay in a resident process
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [second for _ in range(num_repeats) for second in run()]
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
    )
    return Cost(statistics.median(seconds), peak, counter.get_total_flops() // num_steps)


def paired_ratios(first: Callable[[], float], second: Callable[[], float], *, num_pairs: int) -> list[float]:
    """The seconds of `first` over those of `second`, pair by pair, after one pair to warm up.

    Within pairs they take turns in running first. A machine that slows down for a while slows both runs of a pair.
    """
    first()
    second()
    ratios = []
    for pair in range(num_pairs):
        if pair % 2:
            second_seconds = second()
            first_seconds = first()
        else:
            first_seconds = first()
            second_seconds = second()
        ratios.append(first_seconds / second_seconds)
    return ratios


@torch.no_grad()
def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest square matrix product of 512 to 8192 rows, none longer than about 0.2 s."""
    best = 0.0
    for side in (512, 1024, 2048, 4096, 8192):
        matrix = torch.randn(side, side, device=device).to(dtype)
        seconds = min(measure_seconds(lambda matrix=matrix: matrix @ matrix, device) for _ in range(5))
        best = max(best, 2 * side**3 / seconds)
        if 8 * seconds > 0.2:  # of the next one
            break
    return best


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    num_threads = torch.get_num_threads()
    return f"{models[0] if models else 'CPU'}, {num_threads} thread{'' if num_threads == 1 else 's'}"
