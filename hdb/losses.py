"""The losses of the hypernetwork, as pure functions of tensors: diffusion, weight-space and identity loss."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Factors = Mapping[str, tuple[Float[Tensor, "n _ _"], Float[Tensor, "n _ _"]]]  # slot -> down (n,r,a), up (n,b,r)
DISTANCES = ("residuals", "factors")


def diffusion_loss(
    noise_pred: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    weight: Float[Tensor, "h w"] | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Mean squared error of the denoiser's answer, over the batch or per sample.

        L = |noise_pred - target|² / (c·h·w)          with weights m: sum(m · (noise_pred - target)²) / (c · sum(m))

    `target` is what the scheduler's prediction type asks for: the noise, or the velocity.

    Args:
        weight: of each place in the picture, not negative and not all zero; None is the same for all.

    >>> diffusion_loss(torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8), reduction="none")
    tensor([1., 1.])

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """
    squares = (noise_pred.float() - target.float()).square()
    if weight is not None:
        squares = squares * (weight / weight.mean())
    return _reduce(squares.flatten(1).mean(1), reduction)


def weight_space_loss(
    predicted: Factors,
    target: Factors,
    *,
    distance: str = "residuals",
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Squared distance between two people's residuals, summed over slots, without forming a residual.

    Per slot, with ΔW = up_aux · up · down · down_aux and orthonormal aux, the out×in distance is that of the small
    products, and these are traces of rank×rank Gram matrices:

        |ΔW₁ - ΔW₂|² = <u₁ᵀu₁, d₁d₁ᵀ> + <u₂ᵀu₂, d₂d₂ᵀ> - 2 <u₁ᵀu₂, d₁d₂ᵀ>          u (b, r), d (r, a)
        rank 1:      = |u₁|²|d₁|² + |u₂|²|d₂|² - 2 (u₁·u₂)(d₁·d₂)

    Paper: β·|theta_pred - theta|² on the factors. Here: on the residuals, because (c·down, up/c) and (-down, -up) are
    the same residual, so a distance of factors punishes right answers. The ranks of both sides may differ. The paper's
    is `distance` factors:

        |theta₁ - theta₂|² = |d₁ - d₂|² + |u₁ - u₂|², summed over slots

    >>> down, up = torch.randn(1, 1, 10), torch.randn(1, 5, 1)
    >>> weight_space_loss({"slot": (down, up)}, {"slot": (-2 * down, -up / 2)}, reduction="none").abs() < 1e-4
    tensor([True])

    Args:
        distance: `residuals` or `factors`.

    Raises:
        ValueError: the two sides name different slots; an unknown distance; factors of two ranks, which have none.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """
    check_distance(distance)
    if predicted.keys() != target.keys():
        odd = sorted(predicted.keys() ^ target.keys())
        raise ValueError(
            f"predicted and target must name the same slots: got {len(predicted)} and {len(target)}, "
            f"differing in {', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''}"
        )
    groups: dict[tuple[int, int], list[str]] = {}
    for name, (down, up) in predicted.items():
        groups.setdefault((down.shape[-1], up.shape[-2]), []).append(name)

    parts = []
    for names in groups.values():  # one kernel for all slots of a size, where a loop over slots would launch thousands
        down1, up1 = _stack(predicted, names)  # (slots, n, r, a), (slots, n, b, r)
        down2, up2 = _stack(target, names)
        if distance == "factors":
            if down1.shape[2] != down2.shape[2]:
                raise ValueError(
                    f"a distance of factors needs one rank, given {down1.shape[2]} and {down2.shape[2]}; "
                    "expected distance residuals"
                )
            parts.append(sum((a - b).square().sum((0, 2, 3)) for a, b in ((down1, down2), (up1, up2))))
            continue
        squares = _inner(down1, up1, down1, up1) + _inner(down2, up2, down2, up2)
        parts.append(squares - 2 * _inner(down1, up1, down2, up2))
    return _reduce(torch.stack(parts).sum(0), reduction)


def identity_loss(
    embedding: Float[Tensor, "n e"], wanted: Float[Tensor, "n e"], *, reduction: Literal["mean", "none"] = "mean"
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """1 - cosine of the embeddings of a face that was drawn and of the face it should be; in [0, 2].

    Paper: none. Here: what the denoiser believes the clean picture to be must show the person. The embeddings must be
    those of the hypernetwork's own encoder: who trains on a judge cannot be judged by it.

    >>> identity_loss(torch.tensor([[2.0, 0]]), torch.tensor([[0, 1.0]]))
    tensor(1.)
    """
    return _reduce(1 - F.cosine_similarity(embedding.float(), wanted.float(), dim=1), reduction)


def check_distance(distance: str) -> None:
    """Raises ValueError if a weight-space loss knows no such distance."""
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}, expected {' or '.join(DISTANCES)}")


def _stack(factors: Factors, names: list[str]) -> tuple[Tensor, Tensor]:
    downs, ups = zip(*(factors[name] for name in names), strict=True)
    return torch.stack(downs).float(), torch.stack(ups).float()


def _inner(down1: Tensor, up1: Tensor, down2: Tensor, up2: Tensor) -> Tensor:
    """<u₁d₁, u₂d₂> summed over slots: (n,).

    The Gram matrices are products and sums, not matmuls: autocast and TF32 round the inputs of a matmul, and of the
    small difference of large numbers above nothing would be left.
    """
    gram_up = (up1[..., :, None] * up2[..., None, :]).sum(-3)  # (slots, n, r₁, r₂)
    gram_down = (down1[..., :, None, :] * down2[..., None, :, :]).sum(-1)
    return (gram_up * gram_down).sum((0, 2, 3))


def _reduce(per_sample: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', not {reduction!r}")
    return per_sample.mean() if reduction == "mean" else per_sample
