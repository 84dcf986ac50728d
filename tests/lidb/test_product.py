"""Hand-written backward passes against autograd, and the number of products that folding takes."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hdb.lidb.adapter import LiDB
from hdb.lidb.linear import LiDBLinear
from hdb.lidb.product import project, residual_linear, sibling_linears
from hdb.lidb.residuals import Residuals


def random_tensors(*shapes: tuple[int, ...], grad: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 4), (2, 4)])
def test_gradients_of_a_residual_layer_are_those_of_finite_differences(n, m):
    inputs = random_tensors((m, 3, 6), (5, 6), (5,), (n, 2, 6), (n, 2, 5))
    assert torch.autograd.gradcheck(residual_linear, inputs)


def test_gradients_of_sibling_layers_are_those_of_finite_differences():
    x, *factors = random_tensors((2, 3, 6), (1, 2, 6), (1, 2, 6), (1, 2, 6), (1, 2, 5), (1, 2, 4), (1, 2, 5))
    weights = random_tensors((5, 6), (4, 6), (5, 6), grad=False)
    biases = [*random_tensors((5,), (4,), grad=False), None]

    def compute(x, *factors):
        return sibling_linears(x, weights, biases, factors[:3], factors[3:])

    assert torch.autograd.gradcheck(compute, (x, *factors))
    alone = [residual_linear(x, *one) for one in zip(weights, biases, factors[:3], factors[3:], strict=True)]
    torch.testing.assert_close(compute(x, *factors), tuple(alone))


def test_a_residual_of_one_person_takes_fewer_products_where_layers_read_one_input(models, layout, people):
    lidb = LiDB(models, layout=layout)
    theta = people[:1].requires_grad_()
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)
    ids = torch.tensor([[1, 2, 3]])

    def compute():
        lidb.bind(theta)
        with CountProducts() as products:
            out = models["unet"](x, torch.tensor([3, 700]), text).sample
            encoded = models["text_encoder"](ids).last_hidden_state
            (gradient,) = torch.autograd.grad(out.square().sum() + encoded.square().sum(), theta)
        return products.num, out, encoded, gradient

    num_together, *together = compute()
    groups = {id(layer.siblings): len(layer.siblings.layers) for layer in lidb.layers.values() if layer.siblings}
    assert not any(layer.siblings._waiting for layer in lidb.layers.values() if layer.siblings)
    for layer in lidb.layers.values():
        layer.siblings = None
    num_alone, *alone = compute()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    # One product with all downs in the forward pass, and one in the backward pass, in place of one of each layer.
    assert sorted(set(groups.values())) == [2, 3]
    assert num_alone - num_together >= sum(2 * (num - 1) for num in groups.values())


def test_siblings_hand_out_nothing_that_was_computed_with_other_factors(models, layout, people):
    lidb = LiDB(models, layout=layout)
    siblings = next(layer.siblings for layer in lidb.layers.values() if layer.siblings)
    first, second = siblings.layers[:2]
    x = torch.ones(1, 7, first.in_features)
    lidb.bind(people[1:2])
    expected = second(x)
    lidb.bind(people[:1])
    first(x)
    lidb.bind(people[1:2])
    assert torch.equal(second(x), expected)


def test_gradients_of_a_projection_are_those_of_finite_differences():
    (factors,), (bases,) = random_tensors((2, 3, 4)), random_tensors((2, 4, 6), grad=False)
    assert torch.autograd.gradcheck(lambda rows: project(rows, bases), (factors,))


def test_a_residual_layer_computes_in_the_precision_of_autocast_and_gives_gradients_in_that_of_each_input():
    x, weight, bias, down, up = (
        tensor.detach().float() for tensor in random_tensors((4, 3, 6), (5, 6), (5,), (2, 2, 6), (2, 2, 5))
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
    lidb = LiDB(models, layout=layout)
    relaxed = Residuals(people, layout).relax(2)
    lidb.bind(relaxed, scale=0.7)
    for name, (down, up) in relaxed.layout.unpack(relaxed.theta).items():
        layer = lidb.layers[name]
        single = LiDBLinear(nn.Linear(layer.in_features, layer.out_features), layer.down_aux, layer.up_aux)
        single.bind(down, up, 0.7)
        for factor, expected in zip(layer.lora_factors(), single.lora_factors(), strict=True):
            torch.testing.assert_close(factor, expected)


class CountProducts(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += func._overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


def test_binding_takes_one_product_per_shape_and_forward_takes_none_for_folding(models, layout, people):
    lidb = LiDB(models, layout=layout)
    shapes = (
        {(slot.in_features, slot.a) for slot in layout.slots},
        {(slot.out_features, slot.b) for slot in layout.slots},
    )
    with CountProducts() as products:
        lidb.bind(people.requires_grad_(), scale=0.5)
    assert products.num == sum(map(len, shapes)) < len(layout.slots) / 2
    layer = next(iter(lidb.layers.values()))
    with CountProducts() as products:
        layer(torch.zeros(3, 7, layer.in_features))
    assert products.num == 2  # the layer and x · downᵀ; the product with up is baddbmm_, in place


def test_one_binding_serves_two_backward_passes_through_all_layers(models, layout, people):
    lidb = LiDB(models, layout=layout)
    theta = people.requires_grad_()
    lidb.bind(theta, scale=0.5)
    layer = next(iter(lidb.layers.values()))
    x = torch.ones(3, 7, layer.in_features)
    layer(x).sum().backward()
    first_grad = theta.grad.clone()
    layer(x).sum().backward()
    assert first_grad.any()
    torch.testing.assert_close(theta.grad, 2 * first_grad)


def test_layers_hold_views_of_stacked_bases_which_follow_the_models_precision(models, layout, people):
    lidb = LiDB(models, layout=layout)
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
