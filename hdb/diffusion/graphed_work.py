"""GraphedWork: work on a base that a CUDA graph does where that is possible."""

from collections.abc import Callable, Hashable, Iterable, Iterator

from torch import Tensor

from hdb.diffusion.graphs import Tensors, Work, autocast_dtype, module_tensors, tolerance_of
from hdb.diffusion.stable_diffusion import StableDiffusion


class GraphedWork:
    """Decides whether work on a base is captured, and does it. Steps of training and of drawing are such work.

    Args:
        name: For the lines that are printed.
        key: As in `Graphs.run`.
        reads: All tensors that the work reads beside its inputs; by default those of the base.
    """

    def __init__(
        self,
        diffusion: StableDiffusion,
        *,
        name: str,
        key: Hashable,
        reads: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        self.diffusion = diffusion
        self.name = name
        self.key = key
        self.reads = reads or (lambda: module_tensors(diffusion))
        self._is_graphed: bool | None = None

    def reasons(self) -> Iterator[str]:
        """What speaks against a capture, beside the device and the setting."""
        if self.diffusion.memory_is_low:
            yield "memory is low, which runs layers again in backward"

    @property
    def is_graphed(self) -> bool:
        """Whether a graph does the work, or will from its first call on. False after a capture failed.

        Captures are dropped if the base has moved since they were made.

        Raises:
            ValueError: The base insists on graphs, and there is a reason against them.
        """
        if self._is_graphed is None:
            graphs = self.diffusion.graphs
            self._is_graphed = graphs.refusal(self.diffusion.device, self.reasons()) is None
            if self._is_graphed:
                graphs.forget_moved(self.reads(), key=self.key)
        return self._is_graphed

    def run(self, work: Work, inputs: Tensors) -> tuple[Tensor, ...]:
        """Does the work as `Graphs.run`, for which `is_graphed` must hold."""
        device = self.diffusion.device
        dtype = autocast_dtype(device)
        outputs, self._is_graphed = self.diffusion.graphs.run(
            work,
            inputs,
            name=self.name,
            key=self.key,
            reads=self.reads,
            device=device,
            tolerance=tolerance_of(dtype or self.diffusion.dtype),
            dtype=dtype,
        )
        return outputs
