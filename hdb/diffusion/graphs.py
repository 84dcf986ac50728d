"""CUDA graphs: work on tensors of fixed shapes is captured once and then started by one call, without Python."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
Work = Callable[[Tensors], tuple[Tensor, ...]]
Pool = tuple[int, int]  # a handle of memory that graphs take turns in

# Largest relative difference between what a graph and what eager execution compute of the same tensors. Both run the
# same kernels up to the order of sums; what a graph does wrong, such as reading an old tensor, differs by far more.
FULL_TOLERANCE = 2e-3  # float32, whose products are in TF32
HALF_TOLERANCE = 5e-2  # bfloat16 and float16

EXPECTED = "expected cuda_graph=auto, which goes on eagerly"


@runtime_checkable
class Capture(Protocol):
    """Recorded work. Tests give `Graphs` another class of this interface, since capturing needs a GPU."""

    def __init__(
        self, work: Callable[[], tuple[Tensor, ...]], *, stream: torch.cuda.Stream | None, pool: Pool | None
    ) -> None: ...

    def replay(self) -> tuple[Tensor, ...]:
        """Does the work again on what its tensors hold now. The results are the same tensors every time."""


class CudaCapture:
    """Work recorded in a CUDA graph.

    Other threads may use the GPU meanwhile: a loader that pins memory does not spoil the capture.

    Args:
        stream: To capture on, the one that the work was warmed up on. Libraries keep their workspaces by stream: those
            of another one would be made during the capture, in the memory of this graph, and be used by the next.
        pool: The memory of what the work computes. Graphs of one pool must be captured on one stream.
    """

    def __init__(self, work: Callable[[], tuple[Tensor, ...]], *, stream: torch.cuda.Stream, pool: Pool) -> None:
        self.graph = torch.cuda.CUDAGraph()
        device = stream.device
        capturing = torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        # A capture that fails at its end leaves its stream as the current one, and the allocator believes that it goes
        # on: it would give no memory back to other work. The outer block and the last call undo that.
        try:
            with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)), capturing:
                self.outputs = work()
        except RuntimeError:
            with suppress(RuntimeError):  # unless the capture came to a proper end
                torch._C._cuda_endAllocateToPool(device.index, pool)
            raise

    def replay(self) -> tuple[Tensor, ...]:
        self.graph.replay()
        return self.outputs


@dataclass
class HeldWork:
    """Work that was captured, with the tensors that it reads its inputs from.

    Args:
        capture: None if it failed, so that the work is done eagerly.
        addresses: Of all other tensors that the work reads. A graph reads from addresses, whatever lies there.
    """

    buffers: dict[str, Tensor]
    capture: Capture | None
    addresses: tuple[int, ...]

    def __call__(self, inputs: Tensors) -> tuple[Tensor, ...]:
        copy_into(self.buffers, inputs)
        return tuple(output.clone() for output in self.capture.replay())


class Graphs:
    """Captured work on one base, kept for later calls with tensors of the same shapes.

    A capture is trusted only after a comparison. The work is first done eagerly, then captured on tensors of zeros, so
    that nothing of the first call's numbers can be baked into it, and replayed on the first call's tensors. If the
    results differ, or capturing fails, for example for lack of memory, one line says so and this work stays eager. Who
    insists on graphs gets an error instead.

    All captures take turns in one pool of memory, so that together they need as much as the largest of them. That is
    safe because of how they are replayed, and anything else here must keep to it. Results are copied out before another
    replay can write over them (`HeldWork`). Inputs lie outside of the pool. A forward pass and its backward pass are
    one capture, and nothing that one replay leaves in the pool is read by another. Replays follow each other on one
    stream; nobody replays two at once.

    Args:
        setting: auto captures wherever `refusal` has nothing against it and the capture succeeds, true raises
            ValueError where one of both is not so, false never captures.

    Attributes:
        capture: The class that records work; a test's own one works without a GPU.
        max_held: Number of captures that are kept. A further one takes the place of the one that was used least
            recently.
        held: What was captured, or failed to be, the one that was used least recently first.
    """

    max_held = 6

    def __init__(self, setting: str = "auto") -> None:
        self.setting = setting
        self.capture: Callable[..., Capture] = CudaCapture
        self.held: dict[Hashable, HeldWork] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._pool: Pool | None = None
        self._lines: set[str] = set()

    def refusal(self, device: torch.device, reasons: Iterable[str] = ()) -> str | None:
        """Why work on this device is not captured, or None. On a GPU a line says it once.

        Args:
            reasons: Those against this work. The first one is said.

        Raises:
            ValueError: The setting is true, and there is a reason against it.
        """
        if self.setting == "false":
            reason = "it is false"
        elif self.capture is CudaCapture and not (device.type == "cuda" and torch.cuda.is_available()):
            reason = f"the base is on {device.type}"
        else:
            reason = next(iter(reasons), None)
        if reason is not None and self.setting == "true":
            raise ValueError(f"cuda_graph is true, but {reason}: {EXPECTED}")
        if reason is not None and device.type == "cuda":
            self.say(f"cuda_graph: off, {reason}")
        return reason

    def say(self, line: str) -> None:
        """Prints a line, once."""
        if line not in self._lines:
            self._lines.add(line)
            print(line)

    def run(
        self,
        work: Work,
        inputs: Tensors,
        *,
        name: str,
        key: Hashable,
        reads: Callable[[], Iterable[Tensor]],
        device: torch.device,
        tolerance: float,
        dtype: torch.dtype | None = None,
    ) -> tuple[tuple[Tensor, ...], bool]:
        """Does the work: from its capture, or eagerly where there is none yet and none can be made.

        Returns:
            What the work computes, and whether there is a capture of it from now on.

        Args:
            work: Computes tensors of the inputs. It must depend on nothing else that changes, and draw no numbers.
            name: For the lines that are printed.
            key: Of everything beside shapes that tells this work from other work.
            reads: All tensors that the work reads beside its inputs.
            tolerance: Largest relative difference from the eager results.
            dtype: Of autocast, which is another work in another precision.

        Raises:
            ValueError: The setting is true, and the capture failed or differs.
        """
        held_key = (key, dtype, tuple((field, tensor.shape, tensor.dtype) for field, tensor in inputs.items()))
        held = self.held.pop(held_key, None)
        if held is None:
            self._make_room()
            held, outputs = self._capture(work, inputs, name=name, reads=reads, device=device, tolerance=tolerance)
        else:
            outputs = work(inputs) if held.capture is None else held(inputs)
        self.held[held_key] = held  # now the last of them
        return outputs, held.capture is not None

    def forget_moved(self, reads: Iterable[Tensor], *, key: Hashable) -> None:
        """Drops the captures of a key if a tensor that they read now lies elsewhere."""
        keys = [held_key for held_key, held in self.held.items() if held_key[0] == key and held.capture is not None]
        if keys:
            addresses = addresses_of(reads)
            for held_key in keys:
                if self.held[held_key].addresses != addresses:
                    del self.held[held_key]

    def forget(self, key: Hashable) -> None:
        """Drops the captures of a key and their memory."""
        self.held = {held_key: held for held_key, held in self.held.items() if held_key[0] != key}

    def clear(self) -> None:
        """Drops all captures and their memory."""
        self.held.clear()

    def _stream(self, device: torch.device) -> torch.cuda.Stream | None:
        """The stream of a GPU on which work is warmed up and captured, or None on another device."""
        if device.type != "cuda" or not torch.cuda.is_available():
            return None
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def _make_room(self) -> None:
        """Drops captures that were used least recently, so that one more can be held."""
        captured = [held_key for held_key, held in self.held.items() if held.capture is not None]
        num_too_many = max(0, len(captured) + 1 - self.max_held)
        for held_key in captured[:num_too_many]:
            del self.held[held_key]

    def _shared_pool(self) -> Pool:
        """The pool that captures share. Without a capture in it a pool may be gone, and a new one is taken."""
        if self._pool is None or all(held.capture is None for held in self.held.values()):
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def _capture(
        self,
        work: Work,
        inputs: Tensors,
        *,
        name: str,
        reads: Callable[[], Iterable[Tensor]],
        device: torch.device,
        tolerance: float,
    ) -> tuple[HeldWork, tuple[Tensor, ...]]:
        """Captures work and compares it. Returns it with the eager results."""
        stream = self._stream(device)
        first, outputs = run_beside(lambda: (work(inputs), work(inputs)), stream)  # which also warms libraries up
        noise = relative_differences(first, outputs)
        started = time.perf_counter()
        try:
            with torch.inference_mode(False):  # else later calls outside of that mode could not write into them
                buffers = {field: torch.zeros_like(tensor) for field, tensor in inputs.items()}
            pool = None if stream is None else self._shared_pool()
            capture = self.capture(lambda: work(buffers), stream=stream, pool=pool)
            held = HeldWork(buffers, capture, addresses_of(reads()))
            differences = relative_differences(held(inputs), outputs)
        except RuntimeError as error:  # CUDA's errors, lack of memory among them
            self._pool = None  # a capture that was broken off may keep its pool from being captured into again
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            return self._without_capture(f"the capture of {name} failed ({reason})", error), outputs
        seconds = time.perf_counter() - started
        # Kernels that sum in no fixed order differ between two eager runs as well.
        within = [difference <= max(tolerance, 4 * usual) for difference, usual in zip(differences, noise, strict=True)]
        largest = max(differences)
        if not all(within):
            reason = f"the graph of {name} differs from eager by {largest:.1e}, more than {tolerance:.0e}"
            return self._without_capture(reason), outputs
        self.say(f"cuda_graph: {name} captured in {seconds:.1f} s, differs from eager by {largest:.1e}")
        return held, outputs

    def _without_capture(self, reason: str, cause: Exception | None = None) -> HeldWork:
        """Work that is done eagerly from now on.

        Raises:
            ValueError: The setting is true.
        """
        if self.setting == "true":
            raise ValueError(f"cuda_graph is true, but {reason}: {EXPECTED}") from cause
        self.say(f"cuda_graph: {reason}, it goes on eagerly")
        return HeldWork({}, None, ())


@torch.no_grad()
def copy_into(buffers: Tensors, inputs: Tensors) -> None:
    """Copies the inputs into the buffers, in few kernels.

    On a GPU `_foreach_copy_` copies a whole list tensor by tensor if dtypes differ within it or if strides differ
    between an input and its buffer. A list therefore holds tensors of one pair of dtypes, and others are copied alone.
    """
    pairs = defaultdict(list)
    for field, buffer in buffers.items():
        tensor = inputs[field]
        if tensor.stride() == buffer.stride():
            pairs[buffer.dtype, tensor.dtype].append((buffer, tensor))
        else:
            buffer.copy_(tensor)
    for same_dtypes in pairs.values():
        torch._foreach_copy_(*zip(*same_dtypes, strict=True))


def run_beside(work: Callable[[], tuple], stream: torch.cuda.Stream | None) -> tuple:
    """Does work on another stream of a GPU, as a capture requires of the runs before it."""
    if stream is None:
        return work()
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        results = work()
    current.wait_stream(stream)
    for outputs in results:
        for output in outputs:
            output.record_stream(current)  # else its memory is free for the other stream while this one reads it
    return results


def relative_differences(found: Iterable[Tensor], expected: Iterable[Tensor]) -> list[float]:
    """The length of the difference over that of the expected tensor, for each tensor; NaN where one has NaN."""
    ratios = []
    for one, other in zip(found, expected, strict=True):
        length = other.double().norm()
        ratios.append((one.double() - other.double()).norm() / length.clamp_min(1e-30))
    return torch.stack(ratios).tolist()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The precision of autocast on this device now, or None."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def autocast_without_cache(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Autocast in this precision, or none. A cast that autocast kept would belong to the graph in which it was made."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


def module_tensors(*modules: nn.Module) -> Iterator[Tensor]:
    """All weights and buffers of modules, those of LiDB layers among them."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def addresses_of(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Where the numbers of tensors lie."""
    return tuple(tensor.data_ptr() for tensor in tensors)


def tolerance_of(dtype: torch.dtype) -> float:
    """The tolerance for arithmetic in this precision."""
    return FULL_TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_TOLERANCE
