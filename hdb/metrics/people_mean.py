"""PeopleMean: a mean over people with its 95 % confidence interval."""

import math

from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PeopleMean(Metric):
    """Mean of a value over identities, and the half-width of its 95 % interval (normal approximation).

    Several values of one identity count as their mean: pictures of one person are no independent draws.

    >>> import torch
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

    def per_person(self) -> Float[Tensor, " k"]:
        """The mean of each of the k people seen so far, in the order of their numbers."""
        return means_of_people(dim_zero_cat(self.values), dim_zero_cat(self.identities))

    def compute(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean, half-width, and the share of people whose value is below zero; all nan without two people."""
        means = self.per_person()
        if len(means) < 2:
            return (means.new_tensor(math.nan),) * 3
        return means.mean(), 1.96 * means.std() / math.sqrt(len(means)), (means < 0).float().mean()


def means_of_people(values: Float[Tensor, " n"], identities: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
    """The mean of each of k people, in the order of their numbers."""
    names, of_name = identities.unique(return_inverse=True)
    return values.new_zeros(len(names)).index_add(0, of_name, values) / of_name.bincount()
