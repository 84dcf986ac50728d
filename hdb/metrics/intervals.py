"""How certain means over people are: bootstrap intervals, paired differences, the scale from nothing to the truth."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_ci(
    per_identity: Sequence[float] | np.ndarray, *, num_samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and percentile bootstrap interval over identities, the unit that is independent: pictures of one are not.

    Args:
        per_identity: one number per identity, the mean over its prompts and pictures.

    >>> bootstrap_ci([0.5, 0.5, 0.5])
    Interval(mean=0.5, low=0.5, high=0.5)

    Raises:
        ValueError: no identity, or a number that is not finite.
    """
    scores = np.asarray(per_identity, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"an interval needs finite numbers, one per identity, but got shape {scores.shape}: {scores}")
    draws = np.random.default_rng(seed).integers(len(scores), size=(num_samples, len(scores)))
    low, high = np.quantile(scores[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(scores.mean()), float(low), float(high))


def paired_ci(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, **options: int) -> Interval:
    """The difference first - second, identity by identity: far sharper than comparing two intervals.

    Args:
        options: of `bootstrap_ci`.

    Raises:
        ValueError: different numbers of identities.
    """
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs the same identities, but got {len(first)} and {len(second)}")
    return bootstrap_ci(np.asarray(first, np.float64) - np.asarray(second, np.float64), **options)


def normalized(score: float, *, unpersonalized: float, oracle: float) -> float | None:
    """Where a score lies between knowing nothing (0) and the true answer (1); None where those two are the same.

    >>> normalized(0.5, unpersonalized=0.25, oracle=0.75)
    0.5
    """
    gap = oracle - unpersonalized
    return None if abs(gap) < 1e-9 else (score - unpersonalized) / gap
