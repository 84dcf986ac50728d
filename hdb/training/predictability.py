"""Predictability: how much of pre-optimized thetas a face's embedding tells of people who were not fitted."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.lidb.residuals import Residuals

MIN_PEOPLE = 10  # a fifth is scored and a fifth chooses the ridge: below this that would be one person each
RIDGES = torch.logspace(-4, 4, 17, dtype=torch.float64)


class Predictability(NamedTuple):
    """R² on people who neither fitted the map nor chose its ridge: 1 is everything, 0 what the mean says."""

    r2: float  # of theta
    r2_residuals: float
    ridge: float  # in units of the embedding's mean variance
    ridge_residuals: float
    num_fit: int
    num_scored: int


def predictability(embeddings: Float[Tensor, "m e"], people: Residuals) -> Predictability:
    """What a ridge regression from the embedding knows of theta, and of the residuals that theta stands for.

        R² = 1 - sum |y - prediction|² / sum |y - mean of the people fitted|²          y: theta, or the residual

    The hypernetwork's direct path is such a map. Targets that it does not predict at all will not teach a network much,
    and no pretraining is needed to see that. Of every five people, in the order given, three are fitted, one chooses
    the ridge, and one is scored after a last fit on the other four.

    A prediction is a weighted sum of the fitted people's y, so inner products of all y are all that is needed, and
    out×in residuals are never formed.

    Args:
        embeddings: of one photo each; standardized here.
        people: the same.

    Raises:
        ValueError: fewer than 10 people, another number of embeddings than of thetas, or thetas that are not finite, or
            all the same.
    """
    people.layout.check_theta(people.theta, finite=True)
    num = len(people)
    if len(embeddings) != num:
        raise ValueError(f"{len(embeddings)} embeddings and {num} thetas given, expected one of each per person")
    if num < MIN_PEOPLE:
        raise ValueError(f"{num} people given, expected at least {MIN_PEOPLE} to fit some and score others")
    turn = torch.arange(num) % 5
    fitted, choosing, scored = ((turn < 3).nonzero()[:, 0], (turn == 3).nonzero()[:, 0], (turn == 4).nonzero()[:, 0])
    embeddings, thetas = embeddings.detach().cpu().double(), people.theta.detach().cpu().double()
    changes = thetas - people.layout.initial_theta()  # what is the same for all is larger than what is personal
    known, scores, ridges = torch.cat([fitted, choosing]), [], []
    for products in (changes @ changes.mT, residual_products(Residuals(thetas, people.layout))):
        ridge = max(RIDGES.tolist(), key=lambda x: r_squared(embeddings, products, fitted, choosing, ridge=x))
        scores.append(r_squared(embeddings, products, known, scored, ridge=ridge))
        ridges.append(ridge)
    return Predictability(*scores, *ridges, num_fit=len(known), num_scored=len(scored))


def r_squared(
    embeddings: Float[Tensor, "n e"],
    products: Float[Tensor, "n n"],
    fitted: Int[Tensor, " f"],
    scored: Int[Tensor, " s"],
    *,
    ridge: float,
) -> float:
    """R² on some people of the ridge regression that was fitted on others; `products` are those of all y."""
    known, asked = embeddings[fitted], embeddings[scored]
    mean, std = known.mean(0), known.std(0).clamp_min(1e-6)
    known, asked = (known - mean) / std, (asked - mean) / std
    penalty = ridge * len(fitted) * torch.eye(known.shape[1], dtype=known.dtype)
    weights = asked @ torch.linalg.solve(known.mT @ known + penalty, known.mT)  # (s, f); a row sums to zero
    # Rows of coefficients of the people's y: the deviation from the mean, and what the prediction leaves of it.
    deviation = torch.zeros(len(scored), len(products), dtype=known.dtype)
    deviation[:, fitted] -= 1 / len(fitted)
    deviation[range(len(scored)), scored] += 1
    error = deviation.clone()
    error[:, fitted] -= weights
    left, whole = (float(((rows @ products) * rows).sum()) for rows in (error, deviation))
    if whole <= 0:
        raise ValueError(f"the thetas of {len(scored)} people are all their mean, expected some that differ")
    return 1 - left / whole


def residual_products(people: Residuals) -> Float[Tensor, "n n"]:
    """Inner products of the residuals of all pairs of people, summed over slots.

    <u₁d₁, u₂d₂> = sum over ranks of (u₁ᵀu₂) · (d₁d₂ᵀ)        the bases are orthonormal and drop out
    """
    products = people.theta.new_zeros(len(people), len(people))
    for down, up in people.layout.unpack(people.theta).values():
        grams = torch.einsum("ibr,jbs->ijrs", up, up), torch.einsum("ira,jsa->ijrs", down, down)
        products += (grams[0] * grams[1]).sum((2, 3))
    return products
