"""LiDB in a tiny UNet and text encoder of diffusers' and transformers' classes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def outputs(models: dict[str, nn.Module], n: int = 3, first: int = 0) -> torch.Tensor:
    """Noise predictions for n different samples under prompts that the text encoder encodes."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 4, 8, 8, generator=generator)[first : first + n]
    tokens = torch.randint(0, 90, (6, 24), generator=generator)[first : first + n]
    timesteps = torch.tensor([900, 10, 400, 700, 200, 500])[first : first + n]
    return models["unet"](latents, timesteps, models["text_encoder"](tokens)[0]).sample


def test_merge_equals_bind(models, layout, people):
    lidb = LiDB(models, layout=layout)
    base = outputs(models)
    lidb.bind(people[:1], scale=0.8)
    bound = outputs(models)
    lidb.bind(None)
    lidb.merge(people[:1], scale=0.8)
    assert (bound - base).abs().max() > 0.05
    torch.testing.assert_close(outputs(models), bound, **CLOSE)
    lidb.detach()
    torch.testing.assert_close(outputs(models), bound, **CLOSE)


def test_zero_residual_changes_nothing_bitwise(models, layout):
    base = outputs(models)
    lidb = LiDB(models, layout=layout)
    assert torch.equal(outputs(models), base)
    for n in (1, 3):
        lidb.bind(layout.initial_theta().repeat(n, 1))
        assert torch.equal(outputs(models), base)


def test_zero_scale_is_the_base(models, layout, people):
    base = outputs(models)
    lidb = LiDB(models, layout=layout)
    lidb.bind(people, scale=0.0)
    assert torch.equal(outputs(models), base)


def test_batch_of_identities_equals_loop_over_identities(models, layout, people):
    lidb = LiDB(models, layout=layout)
    lidb.bind(people)
    batch = outputs(models)
    for i in range(3):
        lidb.bind(people[i : i + 1])
        torch.testing.assert_close(outputs(models, n=1, first=i), batch[i : i + 1], **CLOSE)


def test_tiled_batch_gives_each_copy_its_identity(models, layout, people):
    lidb = LiDB(models, layout=layout)
    lidb.bind(people)
    tiled = outputs(models, n=6)
    for i in range(6):
        lidb.bind(people[i % 3 : i % 3 + 1])
        torch.testing.assert_close(outputs(models, n=1, first=i), tiled[i : i + 1], **CLOSE)


def test_relaxing_does_not_change_the_output(models, layout, people):
    lidb = LiDB(models, layout=layout)
    lidb.bind(people)
    before = outputs(models)
    lidb.bind(Residuals(people, layout).relax(3))
    torch.testing.assert_close(outputs(models), before, **CLOSE)


def test_one_adapter_binds_every_rank(models, layout):
    relaxed = replace(layout, rank=3)
    theta = relaxed.initial_theta() + 0.3 * torch.randn(3, relaxed.size, generator=torch.Generator().manual_seed(2))
    lidb = LiDB(models, layout=layout)
    lidb.bind(Residuals(theta, relaxed))
    before = outputs(models)
    with lidb.bound(layout.initial_theta()):
        assert not torch.equal(outputs(models), before)
    assert torch.equal(outputs(models), before)
    lidb.detach()
    LiDB(models, layout=relaxed).bind(theta)
    assert torch.equal(outputs(models), before)


def test_theta_of_other_bases_is_refused_with_both_digests(models, layout, people):
    lidb = LiDB(models, layout=layout)
    other = replace(layout, seed=1)
    with pytest.raises(ValueError, match=f"theta belongs to layout {other.digest}, expected {layout.digest}"):
        lidb.bind(Residuals(people, other))


def test_gradients_reach_theta_and_never_the_base(models, layout, people):
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    lidb = LiDB(models, layout=layout)
    theta = people.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.1)
    lidb.bind(theta)
    outputs(models).square().mean().backward()
    for down_grad, up_grad in layout.unpack(theta.grad).values():
        assert down_grad.flatten(1).any(dim=1).all()  # for each person
        assert up_grad.flatten(1).any(dim=1).all()
    optimizer.step()
    for name, model in models.items():
        assert all(p.grad is None for p in model.parameters())
        after = model.state_dict()
        assert list(after) == list(before[name])
        assert all(torch.equal(after[key], value) for key, value in before[name].items())


def test_gradients_of_one_sample_reach_its_own_person_only(models, layout, people):
    lidb = LiDB(models, layout=layout)
    theta = people.clone().requires_grad_()
    lidb.bind(theta)
    outputs(models)[1].square().mean().backward()
    assert theta.grad[1].any() and not theta.grad[0].any() and not theta.grad[2].any()


def test_gradient_checkpointing_gives_the_same_gradients(models, layout, people):
    lidb = LiDB(models, layout=layout)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            models["unet"].enable_gradient_checkpointing()
            models["unet"].train()
        theta = people.clone().requires_grad_()
        lidb.bind(theta)
        outputs(models).square().mean().backward()
        gradients.append(theta.grad)
    torch.testing.assert_close(*gradients)


def test_detach_puts_the_original_layers_back(models, layout, people):
    before = {name: dict(model.named_modules()) for name, model in models.items()}
    base = outputs(models)
    lidb = LiDB(models, layout=layout)
    lidb.bind(people)
    assert not torch.equal(outputs(models), base)
    lidb.detach()
    assert {name: dict(model.named_modules()) for name, model in models.items()} == before
    assert torch.equal(outputs(models), base)


def test_bound_restores_what_was_bound_before_even_after_an_error(models, layout, people):
    lidb = LiDB(models, layout=layout)
    lidb.bind(people[:1], scale=0.5)
    before = outputs(models)
    with pytest.raises(RuntimeError, match="stop"), lidb.bound(people[1:2]):
        assert not torch.equal(outputs(models), before)
        raise RuntimeError("stop")
    assert torch.equal(outputs(models), before)


def test_layers_follow_the_model_to_another_precision(models, layout, people):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 8, 8, generator=generator)
    prompt_embeds = torch.randn(3, 24, 16, generator=generator)
    unet = models["unet"]
    lidb = LiDB(models, layout=layout)
    lidb.bind(people)
    exact = unet(latents, 400, prompt_embeds).sample
    unet.to(torch.float64)
    lidb.bind(people)
    double = unet(latents.double(), 400, prompt_embeds.double()).sample
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), exact, **CLOSE)


def test_eight_residuals_cost_at_most_a_quarter_more_work_than_one(models, layout):
    lidb = LiDB(models, layout=layout)

    def count_flops(n: int) -> int:
        lidb.bind(layout.initial_theta().repeat(n, 1).requires_grad_())
        latents = torch.zeros(8, 4, 8, 8)
        tokens = torch.zeros(8, 24, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            models["unet"](latents, 1, models["text_encoder"](tokens)[0]).sample.sum().backward()
        return counter.get_total_flops()

    assert count_flops(8) <= 1.25 * count_flops(1)


def test_theta_with_nan_is_refused_and_the_binding_stays(models, layout, people):
    lidb = LiDB(models, layout=layout)
    lidb.bind(people)
    before = outputs(models)
    bad = people.clone()
    bad[1, 3] = float("nan")
    with pytest.raises(ValueError, match="1 values of .* that are not finite, expected 0"):
        lidb.bind(bad)
    assert torch.equal(outputs(models), before)


def test_theta_of_another_layout_is_refused_with_both_sizes(models, layout):
    lidb = LiDB(models, layout=layout)
    relaxed = Residuals.initial(layout).relax(2)
    with pytest.raises(ValueError, match=rf"\(1, {relaxed.layout.size}\), expected \(n, {layout.size}\)"):
        lidb.bind(relaxed.theta)


def test_several_people_cannot_be_merged(models, layout, people):
    lidb = LiDB(models, layout=layout)
    with pytest.raises(ValueError, match="weights of 1 person, given 3"):
        lidb.merge(people)


def test_a_layout_of_another_model_is_refused_with_the_differing_slot(models, layout):
    with pytest.raises(ValueError, match="only the layout has text_encoder.text_model.encoder.layers.0"):
        LiDB({"unet": models["unet"]}, layout=layout)
    with pytest.raises(ValueError, match="only the model has text_encoder.text_model.encoder.layers.0"):
        LiDB(models, layout=Layout.from_models({"unet": models["unet"]}))


def test_a_layer_of_another_shape_is_refused_with_both_shapes(models, layout):
    first = layout.slots[0]
    wider = replace(layout, slots=(replace(first, in_features=first.in_features + 1), *layout.slots[1:]))
    with pytest.raises(ValueError, match="attn1.to_q is 8 -> 8 in the model, 9 -> 8 in the layout"):
        LiDB(models, layout=wider)


def test_a_second_adapter_on_the_same_model_is_refused(models, layout):
    LiDB(models, layout=layout)
    with pytest.raises(ValueError, match="has LiDB layers already"):
        LiDB(models, layout=layout)


@pytest.mark.parametrize("free_adapter", [False, True])
def test_a_relaxed_free_layout_is_bound_and_merged_like_the_original(models, layout, people, free_adapter):
    lidb = LiDB(models, layout=layout)
    lidb.bind(people, scale=0.8)
    predicted = outputs(models)
    free = Residuals(people, layout).relax(3, free=True)
    if free_adapter:
        lidb.detach()
        lidb = LiDB(models, layout=free.layout)
        assert not list(models["unet"].named_buffers())  # no identity matrices in place of bases
    lidb.bind(free, scale=0.8)
    torch.testing.assert_close(outputs(models), predicted, **CLOSE)
    lidb.merge(free[:1], scale=0.8)
    torch.testing.assert_close(outputs(models, n=1), predicted[:1], **CLOSE)


def test_gradients_of_new_rows_of_a_free_layout_are_not_confined_to_the_bases(models, layout, people):
    residuals = Residuals(people, layout).relax(2, free=True)
    theta = residuals.theta.requires_grad_()
    free_layout = residuals.layout
    lidb = LiDB(models, layout=layout)
    lidb.bind(residuals)
    outputs(models).square().mean().backward()
    assert all(up_grad.flatten(1).any(dim=1).all() for _, up_grad in free_layout.unpack(theta.grad).values())
    slot = layout.slots[0]
    _, up_aux = slot.aux_bases(seed=layout.seed)
    _, up_grad = free_layout.unpack(theta.grad)[slot.name]
    new_column = up_grad[0, :, 1]
    assert (new_column - up_aux @ (up_aux.mT @ new_column)).norm() > 0.1 * new_column.norm()


def test_theta_with_bases_is_refused_by_a_free_adapter_and_free_theta_of_another_model_by_any(models, layout):
    other = replace(layout, slots=layout.slots[:-1]).as_lora
    lidb = LiDB(models, layout=layout)
    with pytest.raises(ValueError, match=f"belongs to layout {other.digest}, expected {layout.digest}"):
        lidb.bind(Residuals.initial(other))
    lidb.detach()
    with pytest.raises(ValueError, match=f"belongs to layout {layout.digest}, expected {layout.as_lora.digest}"):
        LiDB(models, layout=layout.as_lora).bind(Residuals.initial(layout))
