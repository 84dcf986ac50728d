"""Relaxing, rescaling, mixing and joining residuals, against residuals that are formed in full."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.lidb.slot import Slot

SMALL = Layout((Slot("unet.to_q", 8, 6, a=4, b=2), Slot("unet.to_k", 8, 6, a=4, b=2)))


def form(residuals: Residuals) -> dict[str, torch.Tensor]:
    """{slot name: residual (n, out, in)}."""
    layout = residuals.layout
    formed = {}
    for slot, (down, up) in zip(layout.slots, layout.unpack(residuals.theta).values(), strict=True):
        if layout.free:
            down_aux, up_aux = torch.eye(slot.in_features), torch.eye(slot.out_features)
        else:
            down_aux, up_aux = slot.aux_bases(seed=layout.seed)
        formed[slot.name] = up_aux @ up @ down @ down_aux
    return formed


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), rank=st.integers(1, 3), extra=st.integers(0, 3))
def test_relaxing_keeps_the_factors_and_appends_rows_of_length_one_and_zero_columns(n, rank, extra):
    layout = replace(SMALL, rank=rank)
    theta = torch.randn(n, layout.size, requires_grad=True)
    relaxed = Residuals(theta, layout).relax(rank + extra)
    assert relaxed.layout == replace(SMALL, rank=rank + extra)
    relaxed_factors = relaxed.layout.unpack(relaxed.theta)
    for name, (down, up) in layout.unpack(theta).items():
        relaxed_down, relaxed_up = relaxed_factors[name]
        assert torch.equal(relaxed_down[:, :rank], down) and torch.equal(relaxed_up[..., :rank], up)
        assert not relaxed_up[..., rank:].any()
        assert (relaxed_down[:, rank:].norm(dim=2) > 0.999).all()
    relaxed.theta.sum().backward()
    assert torch.equal(theta.grad, torch.ones_like(theta))


def test_relaxing_the_initial_theta_gives_the_initial_theta_of_higher_rank():
    relaxed = Residuals.initial(SMALL).relax(4)
    assert torch.equal(relaxed.theta, relaxed.layout.initial_theta())


def test_relaxing_to_a_lower_rank_is_refused():
    layout = replace(SMALL, rank=4)
    with pytest.raises(ValueError, match="cannot relax rank 4 to 2; expected 4 or more"):
        Residuals.initial(layout).relax(2)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), rank=st.integers(1, 3), extra=st.integers(0, 3))
def test_relaxing_to_a_free_layout_keeps_the_residuals_with_new_rows_and_zero_columns(n, rank, extra):
    layout = replace(SMALL, rank=rank)
    theta = torch.randn(n, layout.size, requires_grad=True)
    narrow = Residuals(theta, layout)
    free = narrow.relax(rank + extra, free=True)
    relaxed = free.layout
    assert relaxed.free and relaxed.rank == rank + extra
    assert relaxed.size == 2 * (rank + extra) * (8 + 6) == SMALL.lora_size(rank + extra)
    before, after = form(narrow), form(free)
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)
    for down, up in relaxed.unpack(free.theta).values():
        assert not up[..., rank:].any()
        torch.testing.assert_close(down[:, rank:].norm(dim=2), torch.ones(n, extra))
    free.theta.square().sum().backward()
    assert theta.grad.abs().min() > 0


def test_a_free_layout_stays_free_when_relaxed():
    free = Residuals(torch.randn(1, SMALL.size), SMALL).relax(2, free=True)
    wider = free.relax(3)
    assert wider.layout.free
    assert all(torch.equal(form(wider)[name], change) for name, change in form(free).items())


@pytest.mark.parametrize(
    "other", [replace(SMALL, rank=3), replace(SMALL, seed=5, rank=2), replace(SMALL, rank=2).as_lora]
)
def test_joining_different_layouts_keeps_every_residual(other):
    first = Residuals(torch.randn(2, SMALL.size), SMALL)
    second = Residuals(torch.randn(1, other.size), other)
    joined = Residuals.join([first, second])
    layout = joined.layout
    assert layout.rank == other.rank and layout.free == (replace(other, rank=1) != SMALL) and len(joined) == 3
    for name, change in form(joined).items():
        torch.testing.assert_close(change[:2], form(first)[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(change[2:], form(second)[name], atol=1e-5, rtol=1e-5)


def test_residuals_of_different_models_cannot_be_joined():
    other = replace(SMALL, slots=SMALL.slots[:1])
    with pytest.raises(ValueError, match=f"several people belongs to layout {other.digest}, expected {SMALL.digest}"):
        Residuals.join([Residuals.initial(SMALL), Residuals.initial(other)])


def test_each_identity_is_rescaled_by_its_own_factor():
    people = Residuals(torch.randn(2, SMALL.size), SMALL)
    for name, change in form(people.rescale([0.5, 3.0])).items():
        torch.testing.assert_close(change, form(people)[name] * torch.tensor([0.5, 3.0])[:, None, None])


def test_theta_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"theta has shape \(2, 11\), expected \(n, 12\) for 2 slots of rank 1"):
        Residuals(torch.zeros(2, 11), SMALL)


@pytest.mark.parametrize("free", [False, True])
def test_mixing_gives_the_weighted_sum_of_the_residuals(free):
    layout = replace(SMALL.as_lora if free else SMALL, rank=2)
    people = Residuals(torch.randn(3, layout.size), layout)
    mixed = people.mix([0.5, 0.2, -0.3])
    assert len(mixed) == 1 and mixed.layout == replace(layout, rank=6)
    for name, change in form(people).items():
        expected = (torch.tensor([0.5, 0.2, -0.3])[:, None, None] * change).sum(0, keepdim=True)
        torch.testing.assert_close(form(mixed)[name], expected)
    with pytest.raises(ValueError, match="2 weights for 3 people: expected one for each"):
        people.mix([0.5, 0.5])


def test_layers_of_the_text_encoder_can_have_other_scales():
    text_slot = Slot("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 8, 6, a=4, b=2)
    layout = Layout((*SMALL.slots, text_slot))
    people = Residuals(torch.randn(2, layout.size), layout)
    before, after = form(people), form(people.rescale([0.5, 1.0], text_encoder_scales=[2.0, 0.0]))
    torch.testing.assert_close(after["unet.to_q"], before["unet.to_q"] * torch.tensor([0.5, 1.0])[:, None, None])
    torch.testing.assert_close(after[text_slot.name], before[text_slot.name] * torch.tensor([2.0, 0.0])[:, None, None])
