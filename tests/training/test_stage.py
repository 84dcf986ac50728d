import pytest
import torch

from hdb.training.stage import check_timesteps, private_generator, sample_timesteps


def draw(distribution: str, num: int = 20_000, **options) -> torch.Tensor:
    return sample_timesteps(num, distribution, num_train_timesteps=1000, generator=private_generator(0), **options)


def test_high_noise_draws_three_quarters_above_63_percent():
    assert (draw("high_noise") >= 630).float().mean() == pytest.approx(0.75, abs=0.01)
    assert (draw("uniform") >= 630).float().mean() == pytest.approx(0.37, abs=0.01)


def test_timesteps_stay_in_their_range_and_fill_it():
    assert draw("uniform").min() == 0 and draw("uniform").max() == 999
    assert draw("high_noise").min() >= 0 and draw("high_noise").max() == 999


def test_stratified_timesteps_take_one_from_each_share():
    assert (draw("uniform", num=10, stratified=True) // 100).tolist() == list(range(10))


def test_unknown_timesteps_are_refused():
    with pytest.raises(ValueError, match="timesteps is 'low_noise', expected uniform or high_noise"):
        check_timesteps("low_noise")


def test_private_generators_depend_on_their_whole_key_and_on_nothing_else():
    torch.manual_seed(1)
    first = torch.rand(3, generator=private_generator(0, 1))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3, generator=private_generator(0, 1)), first)
    for other in [(0, 2), (1, 1), (1, 0), (0, 1, 1)]:
        assert not torch.equal(torch.rand(3, generator=private_generator(*other)), first)
