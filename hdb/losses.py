"""The losses of the hypernetwork as pure functions of tensors: diffusion, weight-space and identity loss."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# {slot name: (down (n, r, a), up (n, b, r))}
Factors = Mapping[str, tuple[Float[Tensor, "n _ _"], Float[Tensor, "n _ _"]]]
DISTANCES = ("residuals", "factors")


def diffusion_loss(
    noise_pred: Float[Tensor, "n c h w"],
    target: Float[Tensor, "n c h w"],
    *,
    weight: Float[Tensor, "h w"] | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Mean squared error of the noise prediction, optionally weighted by position.

        L = |noise_pred - target|² / (c·h·w)          with a weight m: sum(m · (noise_pred - target)²) / (c · sum(m))

    Args:
        target: The noise or the velocity, depending on the scheduler's prediction type.
        weight: Weight of each latent position, not negative and not all zero. None weighs all alike.
        reduction: `mean` over the batch, or `none` for one loss per sample.

    >>> diffusion_loss(torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8), reduction="none")
    tensor([1., 1.])

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """
    squared_errors = (noise_pred.float() - target.float()).square()
    if weight is not None:
        squared_errors = squared_errors * (weight / weight.mean())
    return _reduce(squared_errors.flatten(1).mean(1), reduction)


def weight_space_loss(
    predicted: Factors,
    target: Factors,
    *,
    distance: str = "residuals",
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Squared distance between predicted and target residuals, summed over slots.

    The residuals ΔW = up_aux · up · down · down_aux (out, in) are never formed. Because the aux bases are orthonormal,
    their distance equals that of the products u·d, which follows from rank×rank Gram matrices:

        |ΔW₁ - ΔW₂|² = <u₁ᵀu₁, d₁d₁ᵀ> + <u₂ᵀu₂, d₂d₂ᵀ> - 2 <u₁ᵀu₂, d₁d₂ᵀ>          u (b, r), d (r, a)
        rank 1:      = |u₁|²|d₁|² + |u₂|²|d₂|² - 2 (u₁·u₂)(d₁·d₂)

    Paper: β·|theta_pred - theta|² on the factors. Here: on the residuals, because (c·down, up/c) and (-down, -up) give
    the same residual, so a distance between factors penalizes correct predictions. The paper's distance is `factors`:

        |theta₁ - theta₂|² = |d₁ - d₂|² + |u₁ - u₂|²

    >>> down, up = torch.randn(1, 1, 10), torch.randn(1, 5, 1)
    >>> weight_space_loss({"slot": (down, up)}, {"slot": (-2 * down, -up / 2)}, reduction="none").abs() < 1e-4
    tensor([True])

    Args:
        predicted: Factors of each slot. With `residuals` the ranks of prediction and target may differ.
        target: Factors of the same slots.
        distance: `residuals` or `factors`.
        reduction: `mean` over the batch, or `none` for one loss per identity.

    Raises:
        ValueError: The slots differ, the distance is unknown, or it is `factors` and the ranks differ.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """
    check_distance(distance)
    if predicted.keys() != target.keys():
        differing = sorted(predicted.keys() ^ target.keys())
        raise ValueError(
            f"predicted and target must name the same slots: got {len(predicted)} and {len(target)}, "
            f"differing in {', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}"
        )
    # Slots of one size are stacked and computed together: a loop over slots would launch thousands of kernels.
    names_by_size: dict[tuple[int, int], list[str]] = {}
    for name, (down, up) in predicted.items():
        names_by_size.setdefault((down.shape[-1], up.shape[-2]), []).append(name)

    distances = []
    for names in names_by_size.values():
        down1, up1 = _stack(predicted, names)  # (slots, n, r, a), (slots, n, b, r)
        down2, up2 = _stack(target, names)
        if distance == "factors":
            if down1.shape[2] != down2.shape[2]:
                raise ValueError(
                    f"a distance of factors needs one rank, given {down1.shape[2]} and {down2.shape[2]}; "
                    "expected distance residuals"
                )
            distances.append((down1 - down2).square().sum((0, 2, 3)) + (up1 - up2).square().sum((0, 2, 3)))
            continue
        squared_norms = _inner_product(down1, up1, down1, up1) + _inner_product(down2, up2, down2, up2)
        distances.append(squared_norms - 2 * _inner_product(down1, up1, down2, up2))
    return _reduce(torch.stack(distances).sum(0), reduction)


def identity_loss(
    embedding: Float[Tensor, "n e"],
    target_embedding: Float[Tensor, "n e"],
    *,
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """1 minus the cosine similarity of two face embeddings, in [0, 2].

    Paper: none. Here: added because the clean picture that the denoiser predicts should show the person. The embeddings
    must come from the hypernetwork's own face encoder, since a metric that was trained on is no longer a metric.

    Args:
        embedding: Embeddings of the predicted faces.
        target_embedding: Embeddings of the people they should show.
        reduction: `mean` over the batch, or `none` for one loss per sample.

    >>> identity_loss(torch.tensor([[2.0, 0]]), torch.tensor([[0, 1.0]]))
    tensor(1.)
    """
    return _reduce(1 - F.cosine_similarity(embedding.float(), target_embedding.float(), dim=1), reduction)


def check_distance(distance: str) -> None:
    """Raises ValueError if `weight_space_loss` does not know the distance."""
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}, expected {' or '.join(DISTANCES)}")


def _stack(factors: Factors, names: list[str]) -> tuple[Tensor, Tensor]:
    downs = [factors[name][0] for name in names]
    ups = [factors[name][1] for name in names]
    return torch.stack(downs).float(), torch.stack(ups).float()


def _inner_product(down1: Tensor, up1: Tensor, down2: Tensor, up2: Tensor) -> Tensor:
    """<u₁d₁, u₂d₂> summed over slots: (n,).

    The Gram matrices are computed by products and sums, not by matmul. Autocast and TF32 round the inputs of a matmul,
    and the distance is a small difference of large numbers.
    """
    gram_up = (up1[..., :, None] * up2[..., None, :]).sum(-3)  # (slots, n, r₁, r₂)
    gram_down = (down1[..., :, None, :] * down2[..., None, :, :]).sum(-1)
    return (gram_up * gram_down).sum((0, 2, 3))


def _reduce(per_sample: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', not {reduction!r}")
    return per_sample.mean() if reduction == "mean" else per_sample
