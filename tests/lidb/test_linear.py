"""One LiDB layer against a linear layer with the residual added to its weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hdb.lidb.layout import Slot
from hdb.lidb.linear import LiDBLinear

SLOT = Slot("unet.to_q", 12, 10, a=5, b=4)


def layer_and_factors(n: int, rank: int = 1, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(SLOT.in_features, SLOT.out_features, dtype=dtype).requires_grad_(False)
    layer = LiDBLinear(base, *(aux.to(dtype) for aux in SLOT.aux_bases(seed=0)))
    down = torch.randn(n, rank, SLOT.a, generator=generator, dtype=dtype)
    up = torch.randn(n, SLOT.b, rank, generator=generator, dtype=dtype)
    return base, layer, down, up


def personalized_weight(layer: LiDBLinear, down: torch.Tensor, up: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return layer.weight + scale * layer.up_aux @ up @ down @ layer.down_aux


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4), repeats=st.integers(1, 3), rank=st.integers(1, 3), tokens=st.sampled_from([(), (7,), (2, 3)])
)
def test_forward_equals_the_formed_residual(n, repeats, rank, tokens):
    base, layer, down, up = layer_and_factors(n, rank)
    layer.bind(down, up, scale=0.7)
    x = torch.randn(repeats * n, *tokens, SLOT.in_features, dtype=torch.float64)
    weights = personalized_weight(layer, down, up, 0.7)
    expected = torch.stack([nn.functional.linear(row, weights[i % n], base.bias) for i, row in enumerate(x)])
    torch.testing.assert_close(layer(x), expected)


def test_one_residual_serves_a_batch_of_any_size():
    base, layer, down, up = layer_and_factors(1)
    layer.bind(down, up)
    x = torch.randn(5, 7, SLOT.in_features, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, personalized_weight(layer, down, up)[0], base.bias))


def test_nothing_bound_is_the_base_bitwise():
    base, layer, down, up = layer_and_factors(2)
    x = torch.randn(4, 7, SLOT.in_features, dtype=torch.float64)
    before = layer(x)
    layer.bind(down, up)
    assert not torch.equal(layer(x), base(x))
    layer.bind(None, None)
    assert torch.equal(before, base(x))
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_zero_residual_changes_nothing_bitwise(n):
    base, layer, down, up = layer_and_factors(n, dtype=torch.float32)
    layer.bind(down, torch.zeros_like(up))
    x = torch.randn(4, 7, SLOT.in_features)
    assert torch.equal(layer(x), base(x))


def test_gradients_are_those_of_the_formed_residual_and_the_base_has_none():
    base, layer, down, up = layer_and_factors(3, rank=2)
    x = torch.randn(6, 7, SLOT.in_features, dtype=torch.float64, requires_grad=True)
    inputs = down.requires_grad_(), up.requires_grad_(), x
    layer.bind(down, up)
    gradients = torch.autograd.grad(layer(x).sin().sum(), inputs)
    formed = torch.einsum("nti,noi->nto", x, personalized_weight(layer, down, up).repeat(2, 1, 1)) + base.bias
    for gradient, expected in zip(gradients, torch.autograd.grad(formed.sin().sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, expected)
    assert layer.weight.grad is None and layer.bias.grad is None
    assert not layer.down_aux.requires_grad and not layer.up_aux.requires_grad


def test_one_binding_serves_two_backward_passes():
    _, layer, down, up = layer_and_factors(2)
    layer.bind(down.requires_grad_(), up.requires_grad_())
    x = torch.randn(2, 7, SLOT.in_features, dtype=torch.float64)
    layer(x).sum().backward()
    first_grad = down.grad.clone()
    layer(x).sum().backward()
    torch.testing.assert_close(down.grad, 2 * first_grad)


class RecordShapes(TorchDispatchMode):
    """Records the last two dimensions of all tensors that are computed."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight_storage = weight.untyped_storage().data_ptr()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # Views of the frozen weight do not count.
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() != self.weight_storage:
            self.shapes.add(tuple(out.shape[-2:]))
        return out


@pytest.mark.parametrize("n", [1, 4])
def test_the_residual_is_never_formed(n):
    _, layer, down, up = layer_and_factors(n)
    layer.bind(down.requires_grad_(), up.requires_grad_())
    x = torch.randn(4, 7, SLOT.in_features, dtype=torch.float64, requires_grad=True)
    with RecordShapes(layer.weight) as record:
        layer(x).sum().backward()
    assert (7, SLOT.in_features) in record.shapes
    assert not record.shapes & {(SLOT.out_features, SLOT.in_features), (SLOT.in_features, SLOT.out_features)}


def test_autocast_sets_the_precision_of_the_output():
    base, layer, down, up = layer_and_factors(2, dtype=torch.float32)
    layer.bind(down.requires_grad_(), up.requires_grad_())
    x = torch.randn(4, 7, SLOT.in_features)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=0.1, rtol=0.05)
    out.sum().backward()
    assert down.grad.dtype == torch.float32 and down.grad.abs().min() > 0


def test_float32_factors_are_bound_to_a_half_precision_layer():
    _, exact, down, up = layer_and_factors(2, dtype=torch.float32)
    base = nn.Linear(SLOT.in_features, SLOT.out_features, dtype=torch.bfloat16)
    base.load_state_dict(exact.state_dict())
    layer = LiDBLinear(base, *SLOT.aux_bases(seed=0))
    x = torch.randn(2, 7, SLOT.in_features)
    for each in (layer, exact):
        each.bind(down, up)
    torch.testing.assert_close(layer(x.bfloat16()).float(), exact(x), atol=0.1, rtol=0.05)


def test_layer_keeps_the_names_and_the_parameters_of_the_base():
    base, layer, _, _ = layer_and_factors(1)
    assert list(layer.state_dict()) == list(base.state_dict())
    assert layer.weight is base.weight and layer.bias is base.bias


def test_building_a_layer_leaves_the_global_generator_alone():
    base = nn.Linear(SLOT.in_features, SLOT.out_features)
    before = torch.get_rng_state()
    LiDBLinear(base, *SLOT.aux_bases(seed=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_that_is_no_multiple_of_the_residuals_is_refused():
    _, layer, down, up = layer_and_factors(3)
    layer.bind(down, up)
    with pytest.raises(ValueError, match="3 residuals are bound, but the batch has 4 samples"):
        layer(torch.randn(4, 7, SLOT.in_features, dtype=torch.float64))


def test_half_a_residual_is_refused():
    _, layer, down, _ = layer_and_factors(1)
    with pytest.raises(ValueError, match="both factors of a residual or neither"):
        layer.bind(down, None)


def test_factors_of_another_width_are_refused_with_both_widths():
    _, layer, down, up = layer_and_factors(2)
    with pytest.raises(ValueError, match=r"\(2, 1, 4\).*a = 5 and b = 4"):
        layer.bind(down[..., :4], up)


def test_other_kinds_of_layer_are_refused_by_name():
    with pytest.raises(ValueError, match="plain nn.Linear layers, given NonDynamicallyQuantizableLinear"):
        LiDBLinear(nn.modules.linear.NonDynamicallyQuantizableLinear(12, 10), *SLOT.aux_bases(seed=0))


def test_bases_of_another_layer_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match="12 inputs and 10 outputs were given to one of 11 inputs and 10 outputs"):
        LiDBLinear(nn.Linear(11, 10), *SLOT.aux_bases(seed=0))


def test_lora_factors_without_a_binding_are_refused():
    _, layer, _, _ = layer_and_factors(1)
    with pytest.raises(ValueError, match="nothing is bound"):
        layer.lora_factors()


@pytest.mark.parametrize("has_bases", [True, False])
def test_free_factors_bypass_the_bases(has_bases):
    base, layer, _, _ = layer_and_factors(1)
    layer = layer if has_bases else LiDBLinear(base, None, None)
    down = torch.randn(2, 3, SLOT.in_features, dtype=torch.float64)
    up = torch.randn(2, SLOT.out_features, 3, dtype=torch.float64)
    layer.bind(down, up, 0.7, free=True)
    x = torch.randn(2, 7, SLOT.in_features, dtype=torch.float64)
    weights = base.weight + 0.7 * up @ down
    expected = torch.stack(
        [nn.functional.linear(row, weight, base.bias) for row, weight in zip(x, weights, strict=True)]
    )
    torch.testing.assert_close(layer(x), expected)


def test_one_basis_without_the_other_is_refused():
    with pytest.raises(ValueError, match="both bases or neither, given one"):
        LiDBLinear(nn.Linear(12, 10), SLOT.aux_bases(seed=0)[0], None)
