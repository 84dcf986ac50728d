import pytest
import torch
from torch.testing import assert_close

from hdb.lidb.layout import Layout, Slot
from hdb.losses import diffusion_loss, weight_space_loss

SIZES = {"first": (6, 5), "second": (7, 4), "third": (6, 5)}  # slot -> (a, b)


def factors(num: int, rank: int, *, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(num, rank, a, generator=generator), torch.randn(num, b, rank, generator=generator))
        for name, (a, b) in SIZES.items()
    }


def dense_distance(first, second, *, seed: int) -> torch.Tensor:
    """The distance between out×in residuals that are formed in full, with random orthonormal bases."""
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for name, (a, b) in SIZES.items():
        up_aux = torch.linalg.qr(torch.randn(20, b, generator=generator)).Q
        down_aux = torch.linalg.qr(torch.randn(30, a, generator=generator)).Q.T
        residuals = [up_aux @ factors[name][1] @ factors[name][0] @ down_aux for factors in (first, second)]
        total = total + (residuals[0] - residuals[1]).square().sum((1, 2))
    return total


@pytest.mark.parametrize("ranks", [(1, 1), (3, 3), (1, 4)])
def test_weight_space_loss_equals_the_distance_of_dense_residuals(ranks):
    first = factors(3, ranks[0], seed=0)
    second = factors(3, ranks[1], seed=1)
    expected = dense_distance(first, second, seed=2)
    assert_close(weight_space_loss(first, second, reduction="none"), expected, rtol=1e-4, atol=1e-3)
    assert_close(weight_space_loss(first, second), expected.mean(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("c", [-1.0, 0.25, -3.0])
def test_weight_space_loss_depends_on_residuals_and_not_on_their_factors(c):
    first = factors(2, 1, seed=0)
    second = factors(2, 1, seed=1)
    rescaled = {name: (c * down, up / c) for name, (down, up) in second.items()}
    assert_close(weight_space_loss(first, rescaled), weight_space_loss(first, second), rtol=1e-5, atol=1e-4)
    assert_close(weight_space_loss(second, rescaled), torch.tensor(0.0), rtol=0, atol=1e-3)


def test_weight_space_loss_is_the_same_under_autocast():
    first = factors(2, 2, seed=0)
    second = factors(2, 2, seed=1)
    expected = weight_space_loss(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(weight_space_loss(first, second), expected)


def test_weight_space_loss_has_a_gradient_at_a_zero_residual():
    first = factors(1, 1, seed=0)
    second = factors(1, 1, seed=1)
    first = {name: (down, torch.zeros_like(up).requires_grad_()) for name, (down, up) in first.items()}
    weight_space_loss(first, second).backward()
    assert all(up.grad.abs().sum() > 0 for _, up in first.values())


def test_distance_of_factors_is_the_distance_of_theta_even_for_equal_residuals():
    layout = Layout(tuple(Slot(f"unet.{name}", a, b, a=a, b=b) for name, (a, b) in SIZES.items()), rank=2)
    first, second = torch.randn(2, 3, layout.size, generator=torch.Generator().manual_seed(0))
    first_factors = layout.unpack(first)
    second_factors = layout.unpack(second)
    expected = (first - second).square().sum(1)
    losses = weight_space_loss(first_factors, second_factors, distance="factors", reduction="none")
    assert_close(losses, expected)
    assert_close(weight_space_loss(first_factors, second_factors, distance="factors"), expected.mean())
    flipped = {name: (-down, -up) for name, (down, up) in first_factors.items()}
    assert_close(weight_space_loss(first_factors, flipped), torch.tensor(0.0), rtol=0, atol=1e-3)
    assert_close(weight_space_loss(first_factors, flipped, distance="factors"), 4 * first.square().sum(1).mean())


def test_undefined_distances_are_refused():
    first = factors(2, 1, seed=0)
    second = factors(2, 3, seed=1)
    with pytest.raises(ValueError, match="distance is 'theta', expected residuals or factors"):
        weight_space_loss(first, first, distance="theta")
    with pytest.raises(ValueError, match="needs one rank, given 1 and 3"):
        weight_space_loss(first, second, distance="factors")


def test_factors_of_different_slots_are_refused():
    first = factors(1, 1, seed=0)
    second = {name: pair for name, pair in first.items() if name != "third"}
    with pytest.raises(ValueError, match="3 and 2, differing in third"):
        weight_space_loss(first, second)


def test_diffusion_loss_averages_the_squared_error_of_each_sample():
    noise_pred = torch.zeros(2, 1, 2, 2)
    target = torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    assert_close(diffusion_loss(noise_pred, target, reduction="none"), torch.tensor([1.0, 9.0]))
    assert_close(diffusion_loss(noise_pred, target), torch.tensor(5.0))


def test_diffusion_loss_is_computed_in_full_precision():
    noise_pred = torch.full((1, 4, 8, 8), 1.0).half()
    target = torch.full((1, 4, 8, 8), 1.001).half()
    exact = (noise_pred.float() - target.float()).square().mean()
    assert torch.equal(diffusion_loss(noise_pred, target), exact)


def test_a_weighted_diffusion_loss_is_the_weighted_mean_whatever_the_weights_scale():
    noise_pred = torch.zeros(2, 3, 4, 4)
    target = torch.zeros(2, 3, 4, 4)
    target[0, :, :, :2] = 1.0
    target[1, :, :, 2:] = 2.0
    right_half = torch.tensor([0.0, 0.0, 5.0, 5.0]).expand(4, 4)
    assert_close(diffusion_loss(noise_pred, target, weight=right_half, reduction="none"), torch.tensor([0.0, 4.0]))
    uniform = diffusion_loss(noise_pred, target, weight=torch.full((4, 4), 3.0))
    assert_close(uniform, diffusion_loss(noise_pred, target))
