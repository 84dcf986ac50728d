import pytest
import torch

from hdb.metrics.people_mean import PeopleMean
from hdb.training.stage import TimestepSampler, private_generator


def draw(timesteps: TimestepSampler, num: int = 20_000, **options) -> torch.Tensor:
    return timesteps.sample(num, num_train_timesteps=1000, generator=private_generator(0), **options)


def test_high_noise_draws_three_quarters_above_63_percent():
    assert (draw(TimestepSampler.from_name("high_noise")) >= 630).float().mean() == pytest.approx(0.75, abs=0.01)
    assert (draw(TimestepSampler.from_name("uniform")) >= 630).float().mean() == pytest.approx(0.37, abs=0.01)


def test_timesteps_stay_in_their_range_and_fill_it():
    drawn = draw(TimestepSampler(low=0.4, high=0.8, exponent=2.0))
    assert drawn.min() in range(400, 410) and drawn.max() in range(795, 800)
    assert draw(TimestepSampler()).max() == 999 and draw(TimestepSampler()).min() == 0


def test_stratified_timesteps_take_one_from_each_share():
    assert (draw(TimestepSampler(), num=10, stratified=True) // 100).tolist() == list(range(10))


def test_impossible_timesteps_are_refused():
    with pytest.raises(ValueError, match="low = 0.9 and high = 0.2"):
        TimestepSampler(low=0.9, high=0.2)
    with pytest.raises(ValueError, match="exponent above 0, not 0"):
        TimestepSampler(exponent=0.0)
    with pytest.raises(ValueError, match="timesteps is 'low_noise', expected uniform or high_noise"):
        TimestepSampler.from_name("low_noise")


def test_private_generators_depend_on_their_whole_key_and_on_nothing_else():
    torch.manual_seed(1)
    first = torch.rand(3, generator=private_generator(0, 1))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3, generator=private_generator(0, 1)), first)
    for other in [(0, 2), (1, 1), (1, 0), (0, 1, 1)]:
        assert not torch.equal(torch.rand(3, generator=private_generator(*other)), first)


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
