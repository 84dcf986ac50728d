"""Products of frozen matrices and the few numbers that are trained, with gradients written out."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def project(
    factors: Float[Tensor, "s k a"], bases: Float[Tensor, "s a width"] | None, *, scale: float = 1.0
) -> Float[Tensor, "s k width"]:
    """Factors of s layers, scaled, through the layers' frozen bases and in their precision; None is no basis.

    Unlike after a plain product, a second backward through the result finds what it needs: residuals are folded once
    and stay bound for as many losses as there are.
    """
    return factors if bases is None and scale == 1 else _Projection.apply(factors, bases, scale)


def residual_linear(
    x: Float[Tensor, "m *tokens in_"],
    weight: Float[Tensor, "out in_"],
    bias: Float[Tensor, " out"] | None,
    down: Float[Tensor, "n r in_"],
    up: Float[Tensor, "n r out"],
) -> Float[Tensor, "m *tokens out"]:
    """A linear layer plus a residual of rank r for each of n people.

        out = x · weightᵀ + bias + (x · downᵀ) · up

    The residual is added to the layer's output, and to its gradient, in place. Left to autograd both would be copied
    first: with many people in a batch that is a tenth of a training step.

    Args:
        x: m samples; sample i gets residual i mod n, or all get the one there is.
    """
    return _ResidualLinear.apply(x, weight, bias, down, up)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: Tensor, bases: Tensor | None, scale: float) -> Tensor:
        # Not saved for backward, after which they would be gone.
        ctx.bases, ctx.scale, ctx.given = bases, scale, factors.dtype
        scaled = factors if scale == 1 else scale * factors
        if bases is None:
            return scaled
        # Into a tensor of its own, which autocast leaves alone: it would cast all bases at every step.
        folded = bases.new_empty(*scaled.shape[:2], bases.shape[2])
        return torch.bmm(scaled.to(bases), bases, out=folded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.bases is not None:
            gradient = torch.bmm(gradient, ctx.bases.mT).to(ctx.given)
        return gradient if ctx.scale == 1 else ctx.scale * gradient, None, None


class _ResidualLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        out = functional.linear(x, weight, bias)  # under autocast in its precision, and so is all that follows
        num = down.shape[0]  # not `len`, which costs as much as a small product
        times = 1 if num == 1 else x.shape[0] // num
        rows = x.to(out.dtype).reshape(times * num, -1, x.shape[-1])
        ctx.times, ctx.shape, ctx.given = times, x.shape, (x.dtype, down.dtype, up.dtype)
        down, up = _tiled(down.to(out), times), _tiled(up.to(out), times)
        inner = torch.bmm(rows, down.mT)
        out.view(times * num, -1, out.shape[-1]).baddbmm_(inner, up)
        ctx.save_for_backward(rows, inner, weight, down, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        of_x, of_weight, of_bias, of_down, of_up = ctx.needs_input_grad
        dtype_of_x, dtype_of_down, dtype_of_up = ctx.given
        flat = gradient.reshape(-1, gradient.shape[-1])
        gradient = flat.view(rows.shape[0], -1, flat.shape[-1])
        to_inner = torch.bmm(gradient, up.mT)
        to_x = to_down = to_up = None
        if of_x:
            to_x = (flat @ weight.to(flat)).view_as(rows).baddbmm_(to_inner, down)
            to_x = to_x.view(ctx.shape).to(dtype_of_x)
        if of_down:
            to_down = _summed(torch.bmm(to_inner.mT, rows), ctx.times).to(dtype_of_down)
        if of_up:
            to_up = _summed(torch.bmm(inner.mT, gradient), ctx.times).to(dtype_of_up)
        to_weight = flat.mT @ rows.flatten(0, 1) if of_weight else None
        return to_x, to_weight, flat.sum(0) if of_bias else None, to_down, to_up


def _tiled(factor: Float[Tensor, "n r w"], times: int) -> Float[Tensor, "m r w"]:
    return factor if times == 1 else factor.expand(times, *factor.shape).flatten(0, 1)  # faster than `repeat`


def _summed(gradient: Float[Tensor, "m r w"], times: int) -> Float[Tensor, "n r w"]:
    return gradient if times == 1 else gradient.unflatten(0, (times, -1)).sum(0)
