"""Products with gradients written out, against autograd's own; and that folding takes few of them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hdb.lidb.adapter import LiDB
from hdb.lidb.linear import LiDBLinear
from hdb.lidb.product import project, residual_linear
from hdb.lidb.residuals import Residuals


def drawn(*shapes: tuple[int, ...], grad: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 4), (2, 4)])
def test_gradients_of_a_residual_layer_are_those_of_finite_differences(n, m):
    inputs = drawn((m, 3, 6), (5, 6), (5,), (n, 2, 6), (n, 2, 5))
    assert torch.autograd.gradcheck(residual_linear, inputs)


def test_gradients_of_a_projection_are_those_of_finite_differences():
    (factors,), (bases,) = drawn((2, 3, 4)), drawn((2, 4, 6), grad=False)
    assert torch.autograd.gradcheck(lambda rows: project(rows, bases), (factors,))


def test_a_residual_layer_computes_in_the_precision_of_autocast_and_gives_gradients_in_that_of_each_input():
    x, weight, bias, down, up = (
        tensor.detach().float() for tensor in drawn((4, 3, 6), (5, 6), (5,), (2, 2, 6), (2, 2, 5))
    )
    inputs = [tensor.requires_grad_() for tensor in (x, down, up)]
    with torch.autocast("cpu", torch.bfloat16):
        out = residual_linear(x, weight, bias, down, up)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().square().sum(), inputs)
    exact = torch.autograd.grad(residual_linear(x, weight, bias, down, up).square().sum(), inputs)
    for gradient, expected in zip(gradients, exact, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected, atol=0.3, rtol=0.05)


def test_folding_all_layers_equals_folding_each(models, layout, people):
    lidb = LiDB(**models, layout=layout)
    relaxed = Residuals(people, layout).relax(2)
    lidb.bind(relaxed, scale=0.7)
    for name, (down, up) in relaxed.layout.unpack(relaxed.theta).items():
        layer = lidb.layers[name]
        alone = LiDBLinear(nn.Linear(layer.in_features, layer.out_features), layer.down_aux, layer.up_aux)
        alone.bind(down, up, 0.7)
        for ours, expected in zip(layer.lora_factors(), alone.lora_factors(), strict=True):
            torch.testing.assert_close(ours, expected)


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += func._overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


def test_binding_takes_a_product_for_each_shape_and_none_is_left_for_the_layers(models, layout, people):
    lidb = LiDB(**models, layout=layout)
    shapes = (
        {(slot.in_features, slot.a) for slot in layout.slots},
        {(slot.out_features, slot.b) for slot in layout.slots},
    )
    with Products() as products:
        lidb.bind(people.requires_grad_(), scale=0.5)
    assert products.num == sum(map(len, shapes)) < len(layout.slots) / 2
    layer = next(iter(lidb.layers.values()))
    with Products() as products:
        layer(torch.zeros(3, 7, layer.in_features))
    assert products.num == 2  # the layer, and into the residual; out of it is added in place


def test_one_binding_serves_two_backwards_through_all_layers(models, layout, people):
    lidb, theta = LiDB(**models, layout=layout), people.requires_grad_()
    lidb.bind(theta, scale=0.5)
    layer = next(iter(lidb.layers.values()))
    x = torch.ones(3, 7, layer.in_features)
    layer(x).sum().backward()
    once = theta.grad.clone()
    layer(x).sum().backward()
    assert once.any()
    torch.testing.assert_close(theta.grad, 2 * once)


def test_layers_keep_their_bases_as_views_of_those_stacked_and_follow_the_model(models, layout, people):
    lidb = LiDB(**models, layout=layout)
    lidb.bind(people)
    exact = [layer.lora_factors() for layer in lidb.layers.values()]
    assert len({layer.down_aux.untyped_storage().data_ptr() for layer in lidb.layers.values()}) < len(lidb.layers) / 2
    for model in models.values():
        model.double()
    lidb.bind(people)
    for layer, (down, up) in zip(lidb.layers.values(), exact, strict=True):
        assert layer.lora_factors()[0].dtype == torch.float64
        torch.testing.assert_close(layer.lora_factors()[0].float(), down)
        torch.testing.assert_close(layer.lora_factors()[1].float(), up)
