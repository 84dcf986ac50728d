"""Means over people: pictures of one person are no independent draws."""

import pytest
import torch

from hdb.metrics.people_mean import PeopleMean


def test_interval_is_over_people_and_not_over_their_pictures():
    once, thrice = PeopleMean(), PeopleMean()
    values, identities = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([4, 9, 2])
    once.update(values, identities)
    for _ in range(3):
        thrice.update(values, identities)
    assert once.compute() == thrice.compute()
    mean, half_width, _ = once.compute()
    assert mean == 3 and half_width == pytest.approx(1.96 * values.std().item() / 3**0.5)


def test_share_below_zero_counts_people_and_not_pictures():
    mean = PeopleMean()
    mean.update(torch.tensor([-3.0, 1.0, -1.0, 2.0, 3.0]), torch.tensor([1, 1, 2, 3, 4]))  # person 1: -1 on average
    assert mean.per_person().tolist() == [-1, -1, 2, 3]
    assert mean.compute()[2] == 0.5


def test_interval_of_one_person_is_not_a_number():
    mean = PeopleMean()
    mean.update(torch.tensor([1.0, 2.0]), torch.tensor([4, 4]))
    assert all(value.isnan() for value in mean.compute())
