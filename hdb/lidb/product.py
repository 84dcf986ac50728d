"""Matrix products of frozen weights and trained factors, with backward passes that save memory and copies."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def project(
    factors: Float[Tensor, "s k a"], bases: Float[Tensor, "s a width"] | None, *, scale: float = 1.0
) -> Float[Tensor, "s k width"]:
    """scale · factors · bases for s layers, in the precision of the bases. Without bases only the scale is applied.

    The result can be used in several backward passes: residuals are folded once and stay bound for several losses.
    """
    if bases is None and scale == 1:
        return factors
    return _Projection.apply(factors, bases, scale)


def residual_linear(
    x: Float[Tensor, "m *tokens in_"],
    weight: Float[Tensor, "out in_"],
    bias: Float[Tensor, " out"] | None,
    down: Float[Tensor, "n r in_"],
    up: Float[Tensor, "n r out"],
) -> Float[Tensor, "m *tokens out"]:
    """A linear layer plus a residual of rank r for each of n identities.

        out = x · weightᵀ + bias + (x · downᵀ) · up

    The residual is added in place, to the output and to the gradient. Autograd would copy both first, which takes a
    tenth of a training step with many people in the batch. One residual for all samples takes plain products, which
    need neither copies of the factors nor a sum of their gradients.

    Args:
        x: m samples, a multiple of n; sample i gets residual i mod n.
    """
    if len(down) == 1:
        return _SharedResidualLinear.apply(x, weight, bias, down, up)
    return _ResidualLinear.apply(x, weight, bias, down, up)


def sibling_linears(
    x: Float[Tensor, "m *tokens in_"],
    weights: Sequence[Float[Tensor, "_ in_"]],
    biases: Sequence[Float[Tensor, " _"] | None],
    downs: Sequence[Float[Tensor, "1 r in_"]],
    ups: Sequence[Float[Tensor, "1 r _"]],
) -> tuple[Tensor, ...]:
    """`residual_linear` of several frozen layers that read one x, for one identity, in fewer products.

        hidden = x · [down_1, down_2, ..]ᵀ        out_i = x · weight_iᵀ + bias_i + hidden_i · up_i

    The gradient of x is summed by the products, where autograd would add that of each layer.
    """
    return _SiblingLinears.apply(x, *weights, *biases, *downs, *ups)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: Tensor, bases: Tensor | None, scale: float) -> Tensor:
        ctx.bases = bases  # not save_for_backward, whose tensors are freed after the first backward pass
        ctx.scale = scale
        ctx.factors_dtype = factors.dtype
        scaled = factors if scale == 1 else scale * factors
        if bases is None:
            return scaled
        # With `out` given, autocast does not apply. It would cast all bases in every step.
        projected = bases.new_empty(*scaled.shape[:2], bases.shape[2])
        return torch.bmm(scaled.to(bases), bases, out=projected)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.bases is not None:
            gradient = torch.bmm(gradient, ctx.bases.mT).to(ctx.factors_dtype)
        if ctx.scale != 1:
            gradient = ctx.scale * gradient
        return gradient, None, None


class _SharedResidualLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        out = functional.linear(x, weight, bias)  # autocast chooses its precision, and the rest follows that
        rows = x.to(out.dtype).reshape(-1, x.shape[-1])
        ctx.x_shape = x.shape
        ctx.dtypes = (x.dtype, down.dtype, up.dtype)
        down, up = down[0].to(out), up[0].to(out)
        hidden = torch.mm(rows, down.mT)
        out.view(-1, out.shape[-1]).addmm_(hidden, up)
        ctx.save_for_backward(rows, hidden, weight, down, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, weight, down, up = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_down, needs_up = ctx.needs_input_grad
        x_dtype, down_dtype, up_dtype = ctx.dtypes
        grad_x = grad_weight = grad_bias = grad_down = grad_up = None
        grad_out = grad_out.reshape(-1, grad_out.shape[-1])
        grad_hidden = torch.mm(grad_out, up.mT)
        if needs_x:
            grad_x = (grad_out @ weight.to(grad_out)).addmm_(grad_hidden, down).view(ctx.x_shape).to(x_dtype)
        if needs_weight:
            grad_weight = grad_out.mT @ rows
        if needs_bias:
            grad_bias = grad_out.sum(0)
        if needs_down:
            grad_down = torch.mm(grad_hidden.mT, rows)[None].to(down_dtype)
        if needs_up:
            grad_up = torch.mm(hidden.mT, grad_out)[None].to(up_dtype)
        return grad_x, grad_weight, grad_bias, grad_down, grad_up


class _SiblingLinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases, downs, ups = _quarters(parameters)
        first = functional.linear(x, weights[0], biases[0])  # autocast chooses its precision, and the rest follows that
        rows = x.to(first.dtype)
        others = [functional.linear(rows, weight, bias) for weight, bias in zip(weights[1:], biases[1:], strict=True)]
        outs = (first, *others)
        rows = rows.reshape(-1, x.shape[-1])
        down = torch.cat([factor[0] for factor in downs]).to(first)
        hidden = torch.mm(rows, down.mT)
        ups = [factor[0].to(first) for factor in ups]
        for out, part, up in zip(outs, hidden.chunk(len(ups), dim=1), ups, strict=True):
            out.view(-1, out.shape[-1]).addmm_(part, up)
        ctx.x_shape = x.shape
        ctx.dtypes = (x.dtype, downs[0].dtype, parameters[-1].dtype)
        ctx.save_for_backward(rows, hidden, down, *weights, *ups)
        return outs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outs: Tensor) -> tuple[Tensor | None, ...]:
        num = len(grad_outs)
        rows, hidden, down, *saved = ctx.saved_tensors
        weights, ups = saved[:num], saved[num:]
        x_dtype, down_dtype, up_dtype = ctx.dtypes
        needs_x, *needs = ctx.needs_input_grad
        _, _, needs_down, needs_up = _quarters(needs)
        grad_outs = [grad_out.reshape(-1, grad_out.shape[-1]) for grad_out in grad_outs]
        grad_hidden = torch.empty_like(hidden)
        for grad_out, up, part in zip(grad_outs, ups, grad_hidden.chunk(num, dim=1), strict=True):
            torch.mm(grad_out, up.mT, out=part)
        grad_x = None
        grad_downs = grad_ups = [None] * num
        if needs_x:
            grad_x = grad_outs[0] @ weights[0].to(grad_outs[0])
            for grad_out, weight in zip(grad_outs[1:], weights[1:], strict=True):
                grad_x.addmm_(grad_out, weight.to(grad_out))
            grad_x = grad_x.addmm_(grad_hidden, down).view(ctx.x_shape).to(x_dtype)
        if any(needs_down):
            grad_downs = torch.mm(grad_hidden.mT, rows).to(down_dtype).unflatten(0, (num, 1, -1)).unbind(0)
        if any(needs_up):
            parts = hidden.chunk(num, dim=1)
            grad_ups = [
                torch.mm(part.mT, grad_out)[None].to(up_dtype) for part, grad_out in zip(parts, grad_outs, strict=True)
            ]
        return grad_x, *[None] * (2 * num), *grad_downs, *grad_ups


def _quarters(values: Sequence[Any]) -> list[Sequence[Any]]:
    """What `sibling_linears` is given of each kind: of weights, biases, downs and ups."""
    num = len(values) // 4
    return [values[start : start + num] for start in range(0, 4 * num, num)]


class _ResidualLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        out = functional.linear(x, weight, bias)  # autocast chooses its precision, and the rest follows that
        batch_size = x.shape[0]
        repeats = batch_size // down.shape[0]
        rows = x.to(out.dtype).reshape(batch_size, -1, x.shape[-1])
        ctx.repeats = repeats
        ctx.x_shape = x.shape
        ctx.dtypes = (x.dtype, down.dtype, up.dtype)
        down = _tile(down.to(out), repeats)
        up = _tile(up.to(out), repeats)
        hidden = torch.bmm(rows, down.mT)
        out.view(batch_size, -1, out.shape[-1]).baddbmm_(hidden, up)
        ctx.save_for_backward(rows, hidden, weight, down, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, weight, down, up = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_down, needs_up = ctx.needs_input_grad
        x_dtype, down_dtype, up_dtype = ctx.dtypes
        grad_x = grad_weight = grad_bias = grad_down = grad_up = None
        flat_grad_out = grad_out.reshape(-1, grad_out.shape[-1])
        grad_out = flat_grad_out.view(rows.shape[0], -1, flat_grad_out.shape[-1])
        grad_hidden = torch.bmm(grad_out, up.mT)
        if needs_x:
            grad_x = (flat_grad_out @ weight.to(flat_grad_out)).view_as(rows).baddbmm_(grad_hidden, down)
            grad_x = grad_x.view(ctx.x_shape).to(x_dtype)
        if needs_weight:
            grad_weight = flat_grad_out.mT @ rows.flatten(0, 1)
        if needs_bias:
            grad_bias = flat_grad_out.sum(0)
        if needs_down:
            grad_down = _sum_tiles(torch.bmm(grad_hidden.mT, rows), ctx.repeats).to(down_dtype)
        if needs_up:
            grad_up = _sum_tiles(torch.bmm(hidden.mT, grad_out), ctx.repeats).to(up_dtype)
        return grad_x, grad_weight, grad_bias, grad_down, grad_up


def _tile(factor: Float[Tensor, "n r w"], repeats: int) -> Float[Tensor, "m r w"]:
    if repeats == 1:
        return factor
    return factor.expand(repeats, *factor.shape).flatten(0, 1)  # faster than `repeat`


def _sum_tiles(gradient: Float[Tensor, "m r w"], repeats: int) -> Float[Tensor, "n r w"]:
    return gradient if repeats == 1 else gradient.unflatten(0, (repeats, -1)).sum(0)
