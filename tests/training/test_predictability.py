"""How predictable thetas are: planted relations are found, noise is not, and the people scored have no say."""

import pytest
import torch
from torch.testing import assert_close

from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.lidb.slot import Slot
from hdb.training.predictability import compute_predictability, residual_products

LAYOUT = Layout((Slot("unet.to_q", 9, 8, a=5, b=4), Slot("unet.to_k", 9, 7, a=6, b=3)))
NUM = 250


def people(thetas: torch.Tensor) -> Residuals:
    return Residuals(thetas, LAYOUT)


def embeddings(num: int = NUM, *, seed: int = 0) -> torch.Tensor:
    return 3 + torch.randn(num, 6, generator=torch.Generator().manual_seed(seed))


def noise(num: int = NUM) -> torch.Tensor:
    """Changes of `up` alone, in which residuals are linear."""
    change = torch.randn(num, LAYOUT.size, generator=torch.Generator().manual_seed(1))
    return LAYOUT.pack({name: (0 * down, up) for name, (down, up) in LAYOUT.unpack(change).items()})


def planted() -> torch.Tensor:
    return embeddings() @ noise(6) / 6**0.5


def test_a_linear_relation_is_found_in_theta_and_in_residuals():
    found = compute_predictability(embeddings(), people(LAYOUT.initial_theta() + planted()))
    assert min(found.r2, found.r2_residuals) > 0.99
    assert (found.num_fit, found.num_scored) == (200, 50)


def test_noise_is_not_predictable():
    found = compute_predictability(embeddings(), people(LAYOUT.initial_theta() + noise()))
    assert -0.1 < found.r2 < 0.05 and -0.1 < found.r2_residuals < 0.05


def test_of_signal_and_noise_the_signal_is_the_share():
    signal = planted()
    thetas = LAYOUT.initial_theta() + signal + noise() * signal.std(0).norm() / noise().std(0).norm()
    found = compute_predictability(embeddings(), people(thetas))
    assert 0.4 < found.r2 < 0.6 and 0.4 < found.r2_residuals < 0.6


def test_many_more_features_than_people_do_not_make_noise_predictable():
    wide = torch.randn(NUM, 600, generator=torch.Generator().manual_seed(2))
    assert compute_predictability(wide, people(LAYOUT.initial_theta() + noise())).r2 < 0.05


def test_signs_that_leave_the_residuals_hide_theta_and_not_the_residuals():
    thetas = LAYOUT.initial_theta() + planted()
    signs = torch.where(torch.arange(NUM) % 2 == 0, 1.0, -1.0)[:, None, None]
    flipped = LAYOUT.pack({name: (signs * down, signs * up) for name, (down, up) in LAYOUT.unpack(thetas).items()})
    found, hidden = (compute_predictability(embeddings(), people(y)) for y in (thetas, flipped))
    assert hidden.r2_residuals == pytest.approx(found.r2_residuals, abs=1e-6)
    assert hidden.r2 < 0.1


def test_the_people_scored_choose_no_ridge():
    thetas = LAYOUT.initial_theta() + planted() + noise()
    changed = thetas.clone()
    changed[4::5] = LAYOUT.initial_theta() + 10 * noise()[4::5]
    found, other = (compute_predictability(embeddings(), people(y)) for y in (thetas, changed))
    assert (found.ridge, found.ridge_residuals) == (other.ridge, other.ridge_residuals)
    assert other.r2 < found.r2 - 0.1


def test_inner_products_are_those_of_the_dense_residuals():
    layout = Layout(LAYOUT.slots, rank=2)
    thetas = torch.randn(4, layout.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    dense = torch.cat([(up @ down).flatten(1) for down, up in layout.fold(thetas).values()], dim=1).double()
    assert_close(residual_products(Residuals(thetas, layout)), dense @ dense.mT, rtol=1e-4, atol=1e-4)


def test_people_who_cannot_be_compared_are_refused():
    thetas = LAYOUT.initial_theta() + noise()
    with pytest.raises(ValueError, match="9 people given, expected at least 10"):
        compute_predictability(embeddings(9), people(thetas[:9]))
    with pytest.raises(ValueError, match="249 embeddings and 250 thetas"):
        compute_predictability(embeddings(249), people(thetas))
    with pytest.raises(ValueError, match="are all their mean"):
        compute_predictability(embeddings(), people(LAYOUT.initial_theta().expand(NUM, -1)))
    with pytest.raises(ValueError, match=r"expected \(n, "):
        compute_predictability(embeddings(), people(thetas[:, 1:]))
    thetas[3, 3] = float("nan")
    with pytest.raises(ValueError, match="1 values of .* not finite"):
        compute_predictability(embeddings(), people(thetas))
