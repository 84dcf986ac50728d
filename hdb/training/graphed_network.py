"""GraphedNetworkStep: the loss of a network and the gradients of its weights, held by a CUDA graph where possible."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from hdb.diffusion.graphs import Tensors, autocast_dtype
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.training.graphed_step import GraphedGradients, loss_and_gradients, with_gradients


class GraphedNetworkStep(GraphedGradients):
    """As `GraphedStep`, for weights that are trained where they lie, such as those of a base's own UNet.

    The graph reads the weights from their addresses, so an optimizer must change them in place, as torch's do.

    Args:
        loss: A function of the tensors of a step and of the weights, which gives the loss alone. It draws nothing.
        parameters: The weights, of each of which the loss has a gradient.
    """

    def __init__(
        self,
        loss: Callable[[Tensors], Tensor],
        *,
        parameters: Sequence[nn.Parameter],
        diffusion: StableDiffusion,
        name: str,
    ) -> None:
        super().__init__(diffusion, name=name, key=loss)
        self.loss = loss
        self.parameters = list(parameters)

    def __call__(self, inputs: Tensors) -> Tensor:
        """The loss, from which gradients flow to the weights."""
        if not self.is_graphed:
            return self.loss(inputs)
        device = self.diffusion.device
        dtype = autocast_dtype(device)

        def work(tensors: Tensors) -> tuple[Tensor, ...]:
            return loss_and_gradients(lambda: (self.loss(tensors),), self.parameters, device=device, dtype=dtype)

        loss, *gradients = self.run(work, inputs)
        return with_gradients(loss, gradients, self.parameters)
