"""Predictability: how well face embeddings predict the pre-optimized thetas of other people."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.lidb.residuals import Residuals

MIN_PEOPLE = 10  # two people to score and two to choose the ridge
RIDGES = torch.logspace(-4, 4, 17, dtype=torch.float64)


class Predictability(NamedTuple):
    """R² on people that neither the regression nor its ridge was fitted to: 1 is everything, 0 is what the mean says.

    Attributes:
        r2: Of theta.
        r2_residuals: Of the residuals that theta stands for.
        ridge, ridge_residuals: The ridges chosen for both, in units of the mean variance of the embedding.
        num_fit: People in the last fit.
        num_scored: People scored.
    """

    r2: float
    r2_residuals: float
    ridge: float
    ridge_residuals: float
    num_fit: int
    num_scored: int


def compute_predictability(embeddings: Float[Tensor, "m e"], people: Residuals) -> Predictability:
    """Scores a ridge regression from face embeddings to thetas, and to the residuals that thetas stand for.

        R² = 1 - sum |y - prediction|² / sum |y - mean of the fitted people|²          y: theta, or the residual

    The hypernetwork's linear path is such a regression. Targets that it does not predict at all will not teach a
    network much, which this shows without any pretraining. Of every five people, in the order given, three are fitted,
    one chooses the ridge, and one is scored after a last fit on the other four.

    A prediction is a weighted sum of the fitted people's y. Inner products of all y are therefore enough, and out×in
    residuals are never formed.

    Args:
        embeddings: One per person, of one photo. They are standardized here.
        people: The targets, in the same order.

    Raises:
        ValueError: Fewer than 10 people, another number of embeddings than of thetas, or thetas that are not finite or
            all the same.
    """
    people.layout.check_theta(people.theta, finite=True)
    num = len(people)
    if len(embeddings) != num:
        raise ValueError(f"{len(embeddings)} embeddings and {num} thetas given, expected one of each per person")
    if num < MIN_PEOPLE:
        raise ValueError(f"{num} people given, expected at least {MIN_PEOPLE} to fit some and score others")
    position = torch.arange(num) % 5
    fitted = (position < 3).nonzero()[:, 0]
    validation = (position == 3).nonzero()[:, 0]
    test = (position == 4).nonzero()[:, 0]
    refitted = torch.cat([fitted, validation])
    embeddings = embeddings.detach().cpu().double()
    thetas = people.theta.detach().cpu().double()
    changes = thetas - people.layout.initial_theta()  # the shared start is larger than what is personal
    scores, ridges = [], []
    for products in (changes @ changes.mT, residual_products(Residuals(thetas, people.layout))):
        ridge_scores = {
            ridge: r_squared(embeddings, products, fitted, validation, ridge=ridge) for ridge in RIDGES.tolist()
        }
        best_ridge = max(ridge_scores, key=ridge_scores.__getitem__)
        scores.append(r_squared(embeddings, products, refitted, test, ridge=best_ridge))
        ridges.append(best_ridge)
    return Predictability(*scores, *ridges, num_fit=len(refitted), num_scored=len(test))


def r_squared(
    embeddings: Float[Tensor, "n e"],
    products: Float[Tensor, "n n"],
    fitted: Int[Tensor, " f"],
    scored: Int[Tensor, " s"],
    *,
    ridge: float,
) -> float:
    """R² on some people of the ridge regression fitted to others.

    Args:
        products: Inner products of y, for all pairs of people.
        fitted: Indices of the people that the regression is fitted to.
        scored: Indices of the people that it is scored on.
    """
    mean = embeddings[fitted].mean(0)
    std = embeddings[fitted].std(0).clamp_min(1e-6)
    inputs = (embeddings[fitted] - mean) / std
    queries = (embeddings[scored] - mean) / std
    penalty = ridge * len(fitted) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = queries @ torch.linalg.solve(inputs.mT @ inputs + penalty, inputs.mT)  # (s, f); rows sum to zero
    # Each row holds coefficients of the people's y: the deviation from the mean, and the error of the prediction.
    deviation = torch.zeros(len(scored), len(products), dtype=inputs.dtype)
    deviation[:, fitted] -= 1 / len(fitted)
    deviation[range(len(scored)), scored] += 1
    error = deviation.clone()
    error[:, fitted] -= weights
    squared_error = float(((error @ products) * error).sum())
    squared_deviation = float(((deviation @ products) * deviation).sum())
    if squared_deviation <= 0:
        raise ValueError(f"the thetas of {len(scored)} people are all their mean, expected some that differ")
    return 1 - squared_error / squared_deviation


def residual_products(people: Residuals) -> Float[Tensor, "n n"]:
    """Inner products of the residuals of all pairs of people, summed over slots.

    <u₁d₁, u₂d₂> = sum over ranks of (u₁ᵀu₂) · (d₁d₂ᵀ)        the bases are orthonormal and drop out
    """
    products = people.theta.new_zeros(len(people), len(people))
    for down, up in people.layout.unpack(people.theta).values():
        up_gram = torch.einsum("ibr,jbs->ijrs", up, up)
        down_gram = torch.einsum("ira,jsa->ijrs", down, down)
        products += (up_gram * down_gram).sum((2, 3))
    return products
