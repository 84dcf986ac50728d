"""PeopleMean: a mean over people with its 95 % confidence interval."""

import math

from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PeopleMean(Metric):
    """Mean of a value over people, and the half-width of its 95 % interval (normal approximation).

    Several values of one person count as their mean: pictures of one person are not independent draws.

    >>> import torch
    >>> mean = PeopleMean()
    >>> mean.update(torch.tensor([1.0, 3.0, 6.0]), torch.tensor([7, 7, 8]))
    >>> mean.compute()[0]
    tensor(4.)
    """

    full_state_update = False
    values: list[Tensor]
    people: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("people", default=[], dist_reduce_fx="cat")

    def update(self, values: Float[Tensor, " n"], people: Int[Tensor, " n"]) -> None:
        """Adds values and the number of the person that each belongs to."""
        self.values.append(values.detach().float())
        self.people.append(people)

    def per_person(self) -> Float[Tensor, " k"]:
        """The mean of each of the k people, in the order of their numbers."""
        return mean_per_person(dim_zero_cat(self.values), dim_zero_cat(self.people))

    def compute(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean, half-width, and the share of people whose mean is below zero; all NaN with fewer than two people."""
        means = self.per_person()
        if len(means) < 2:
            return (means.new_tensor(math.nan),) * 3
        return means.mean(), 1.96 * means.std() / math.sqrt(len(means)), (means < 0).float().mean()


def mean_per_person(values: Float[Tensor, " n"], people: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
    """The mean of the values of each of k people, in the order of their numbers."""
    numbers, positions = people.unique(return_inverse=True)
    sums = values.new_zeros(len(numbers)).index_add(0, positions, values)
    return sums / positions.bincount()
