"""GraphedStep: the loss of a training step and its gradient, held by a CUDA graph where that is possible."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hdb.diffusion.graphed_work import GraphedWork
from hdb.diffusion.graphs import Tensors, autocast_dtype, autocast_without_cache
from hdb.diffusion.stable_diffusion import StableDiffusion

# (what is trained, tensors of the step) -> the loss, and numbers to log
StepLoss = Callable[[Tensor, Tensors], tuple[Tensor, ...]]

_TRAINED = "trained"


class GraphedGradients(GraphedWork):
    """Work that computes a loss and its gradients. Without a graph, the Trainer's backward pass computes them."""

    def reasons(self) -> Iterator[str]:
        yield from super().reasons()
        if autocast_dtype(self.diffusion.device) == torch.float16:
            yield "float16 scales its loss"


class GraphedStep(GraphedGradients):
    """Computes the loss of a training step. Its gradient flows to what is trained.

        forward and backward of a step of Stable Diffusion 1.5: 4,000 operations of Python, or one replay of a graph

    Forward and backward are one graph, whose results are the loss, its gradient and the numbers to log. An autograd
    node hands the gradient on, so the Trainer's backward pass, clipping, accumulation and optimizer stay as they are.
    Without a graph the loss is computed as usual, which is the same function with autograd's own nodes.

    Args:
        loss: Must read nothing that changes but its arguments: no attribute of a stage, no tensor made in a step.
            It draws nothing. Two equal functions share a capture, so a person finetuned later finds that of the first.
        name: Of the stage, in the lines that are printed.
        reads: All tensors that the loss reads beside its arguments; by default those of the base.
        world_size: Number of processes. Several of them exchange gradients while a step runs, and capture nothing.
    """

    def __init__(
        self,
        loss: StepLoss,
        *,
        diffusion: StableDiffusion,
        name: str,
        reads: Callable[[], Iterable[Tensor]] | None = None,
        world_size: int = 1,
    ) -> None:
        super().__init__(diffusion, name=name, key=loss, reads=reads)
        self.loss = loss
        self.world_size = world_size

    def reasons(self) -> Iterator[str]:
        yield from super().reasons()
        if self.world_size > 1:
            yield f"{self.world_size} processes train together"

    def __call__(self, trained: Float[Tensor, "n p"], inputs: Tensors) -> tuple[Tensor, ...]:
        """The loss, from which a gradient flows to `trained`, and the numbers to log."""
        if not self.is_graphed:
            return self.loss(trained, inputs)
        device = self.diffusion.device
        dtype = autocast_dtype(device)

        def work(tensors: Tensors) -> tuple[Tensor, ...]:
            others = dict(tensors)
            copied = others.pop(_TRAINED).detach().requires_grad_()
            return loss_and_gradients(lambda: self.loss(copied, others), [copied], device=device, dtype=dtype)

        loss, gradient, *logged = self.run(work, {**inputs, _TRAINED: trained.detach()})
        return with_gradients(loss, [gradient], [trained]), *logged

    def forget(self) -> None:
        """Gives the memory of the captures back."""
        self.diffusion.graphs.forget(self.loss)


def loss_and_gradients(
    loss: Callable[[], tuple[Tensor, ...]],
    trained: Sequence[Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[Tensor, ...]:
    """The loss, its gradient for each trained tensor and the numbers to log, in the precision of a Trainer's step.

    Args:
        loss: Gives the loss and the numbers to log.
        dtype: Of autocast, or None.
    """
    with torch.enable_grad(), autocast_without_cache(device, dtype):
        value, *logged = loss()
    with autocast_without_cache(device, None):  # as in the Trainer's backward pass
        gradients = torch.autograd.grad(value, trained)
    return value.detach(), *gradients, *(number.detach() for number in logged)


def with_gradients(loss: Tensor, gradients: Sequence[Tensor], trained: Sequence[Tensor]) -> Tensor:
    """The loss, from which these gradients flow to what is trained."""
    return _WithGradients.apply(loss, len(gradients), *gradients, *trained)


def prefixed(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """The same tensors under longer names."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, num_trained: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[:num_trained])
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients = torch._foreach_mul(ctx.saved_tensors, grad_loss)
        return None, None, *(None for _ in gradients), *gradients
