"""Theta with its layout: what relaxing, scaling and joining people leave as it was."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.lidb.slot import Slot

SMALL = Layout((Slot("unet.to_q", 8, 6, a=4, b=2), Slot("unet.to_k", 8, 6, a=4, b=2)))


def formed(residuals: Residuals) -> dict[str, torch.Tensor]:
    """What each slot's weight is changed by, formed in full."""
    layout, theta, changes = residuals.layout, residuals.theta, {}
    for slot, (down, up) in zip(layout.slots, layout.unpack(theta).values(), strict=True):
        down_aux, up_aux = (torch.eye(slot.in_features), torch.eye(slot.out_features))
        if not layout.free:
            down_aux, up_aux = slot.aux_bases(seed=layout.seed)
        changes[slot.name] = up_aux @ up @ down @ down_aux
    return changes


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), rank=st.integers(1, 3), extra=st.integers(0, 3))
def test_relaxing_starts_at_the_prediction_exactly(n, rank, extra):
    layout = replace(SMALL, rank=rank)
    theta = torch.randn(n, layout.size, requires_grad=True)
    wider = Residuals(theta, layout).relax(rank + extra)
    relaxed, wide = wider.layout, wider.theta
    assert relaxed == replace(SMALL, rank=rank + extra)
    for (down, up), (wide_down, wide_up) in zip(
        layout.unpack(theta).values(), relaxed.unpack(wide).values(), strict=True
    ):
        assert torch.equal(wide_down[:, :rank], down) and torch.equal(wide_up[..., :rank], up)
        assert not wide_up[..., rank:].any()
        assert (wide_down[:, rank:].norm(dim=2) > 0.999).all()
    wide.sum().backward()
    assert torch.equal(theta.grad, torch.ones_like(theta))


def test_relaxing_the_start_gives_the_start_of_higher_rank():
    relaxed = Residuals.initial(SMALL).relax(4)
    assert torch.equal(relaxed.theta, relaxed.layout.initial_theta())


def test_relaxing_to_a_lower_rank_is_refused():
    layout = replace(SMALL, rank=4)
    with pytest.raises(ValueError, match="cannot relax rank 4 to 2; expected 4 or more"):
        Residuals.initial(layout).relax(2)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), rank=st.integers(1, 3), extra=st.integers(0, 3))
def test_leaving_the_bases_starts_at_the_prediction_with_fresh_rows_beside_zero_columns(n, rank, extra):
    layout = replace(SMALL, rank=rank)
    theta = torch.randn(n, layout.size, requires_grad=True)
    narrow = Residuals(theta, layout)
    free = narrow.relax(rank + extra, free=True)
    relaxed, wide = free.layout, free.theta
    assert relaxed.free and relaxed.rank == rank + extra
    assert relaxed.size == 2 * (rank + extra) * (8 + 6) == SMALL.lora_size(rank + extra)
    before, after = formed(narrow), formed(free)
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)
    for down, up in relaxed.unpack(wide).values():
        assert not up[..., rank:].any()
        torch.testing.assert_close(down[:, rank:].norm(dim=2), torch.ones(n, extra))
    wide.square().sum().backward()
    assert theta.grad.abs().min() > 0


def test_a_free_layout_stays_free_when_relaxed():
    free = Residuals(torch.randn(1, SMALL.size), SMALL).relax(2, free=True)
    wider = free.relax(3)
    assert wider.layout.free
    assert all(torch.equal(formed(wider)[name], change) for name, change in formed(free).items())


@pytest.mark.parametrize(
    "other", [replace(SMALL, rank=3), replace(SMALL, seed=5, rank=2), replace(SMALL, rank=2).as_lora]
)
def test_people_of_different_layouts_join_in_one_with_every_residual_as_it_was(other):
    first, second = Residuals(torch.randn(2, SMALL.size), SMALL), Residuals(torch.randn(1, other.size), other)
    joined = Residuals.join([first, second])
    layout = joined.layout
    assert layout.rank == other.rank and layout.free == (replace(other, rank=1) != SMALL) and len(joined) == 3
    for name, change in formed(joined).items():
        torch.testing.assert_close(change[:2], formed(first)[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(change[2:], formed(second)[name], atol=1e-5, rtol=1e-5)


def test_people_of_different_models_do_not_join():
    other = replace(SMALL, slots=SMALL.slots[:1])
    with pytest.raises(ValueError, match=f"several people belongs to layout {other.digest}, expected {SMALL.digest}"):
        Residuals.join([Residuals.initial(SMALL), Residuals.initial(other)])


def test_everyone_is_scaled_by_their_own_factor():
    people = Residuals(torch.randn(2, SMALL.size), SMALL)
    for name, change in formed(people.rescale([0.5, 3.0])).items():
        torch.testing.assert_close(change, formed(people)[name] * torch.tensor([0.5, 3.0])[:, None, None])


def test_theta_of_another_layout_is_no_residuals():
    with pytest.raises(ValueError, match=r"theta has shape \(2, 11\), expected \(n, 12\) for 2 slots of rank 1"):
        Residuals(torch.zeros(2, 11), SMALL)


@pytest.mark.parametrize("free", [False, True])
def test_a_mixture_is_the_weighted_sum_of_the_residuals(free):
    layout = replace(SMALL.as_lora if free else SMALL, rank=2)
    people = Residuals(torch.randn(3, layout.size), layout)
    mixed = people.mix([0.5, 0.2, -0.3])
    assert len(mixed) == 1 and mixed.layout == replace(layout, rank=6)
    for name, change in formed(people).items():
        expected = (torch.tensor([0.5, 0.2, -0.3])[:, None, None] * change).sum(0, keepdim=True)
        torch.testing.assert_close(formed(mixed)[name], expected)
    with pytest.raises(ValueError, match="2 weights for 3 people: expected one for each"):
        people.mix([0.5, 0.5])


def test_the_text_encoders_layers_can_have_a_strength_of_their_own():
    text = Slot("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 8, 6, a=4, b=2)
    layout = Layout((*SMALL.slots, text))
    people = Residuals(torch.randn(2, layout.size), layout)
    before, after = formed(people), formed(people.rescale([0.5, 1.0], text_encoder_scales=[2.0, 0.0]))
    torch.testing.assert_close(after["unet.to_q"], before["unet.to_q"] * torch.tensor([0.5, 1.0])[:, None, None])
    torch.testing.assert_close(after[text.name], before[text.name] * torch.tensor([2.0, 0.0])[:, None, None])
