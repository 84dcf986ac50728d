"""PeopleMean: a mean over people with its 95 % confidence interval."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PeopleMean(Metric):
    """Mean of a value over identities, and the half-width of its 95 % interval (normal approximation).

    Several values of one identity count as their mean: pictures of one person are no independent draws.

    >>> mean = PeopleMean()
    >>> mean.update(torch.tensor([1.0, 3.0, 6.0]), torch.tensor([7, 7, 8]))
    >>> mean.compute()[0]
    tensor(4.)
    """

    full_state_update = False
    values: list[Tensor]
    identities: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("identities", default=[], dist_reduce_fx="cat")

    def update(self, values: Float[Tensor, " n"], identities: Int[Tensor, " n"]) -> None:
        self.values.append(values.detach().float())
        self.identities.append(identities)

    def compute(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean and half-width; both nan without two people."""
        values = dim_zero_cat(self.values)
        names, of_name = dim_zero_cat(self.identities).unique(return_inverse=True)
        if len(names) < 2:
            return values.new_tensor(math.nan), values.new_tensor(math.nan)
        means = torch.zeros(len(names), device=values.device).index_add(0, of_name, values) / of_name.bincount()
        return means.mean(), 1.96 * means.std() / math.sqrt(len(names))
