"""How certain a mean over people is: bootstrap intervals, paired differences, and the scale from base to oracle."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with its confidence interval; of one person there is none, and both bounds are None."""

    mean: float
    low: float | None
    high: float | None


def bootstrap_ci(
    per_person: Sequence[float] | np.ndarray, *, num_samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and percentile bootstrap interval over people, who are independent; pictures of one person are not.

    Args:
        per_person: one number per person, the mean over their prompts and pictures.
        num_samples: how often people are resampled.
        level: share of the resampled means within the interval.

    >>> bootstrap_ci([0.5, 0.5, 0.5])
    Interval(mean=0.5, low=0.5, high=0.5)
    >>> bootstrap_ci([0.5])
    Interval(mean=0.5, low=None, high=None)

    Raises:
        ValueError: no person, or a number that is not finite.
    """
    scores = np.asarray(per_person, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"an interval needs finite numbers, one per person, but got shape {scores.shape}: {scores}")
    mean = float(scores.mean())
    if len(scores) == 1:
        return Interval(mean, None, None)
    rows = np.random.default_rng(seed).integers(len(scores), size=(num_samples, len(scores)))
    low, high = np.quantile(scores[rows].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def paired_ci(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    num_samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The difference first - second, person by person: far sharper than the comparison of two intervals.

    Args:
        num_samples, seed, level: as in `bootstrap_ci`.

    Raises:
        ValueError: different numbers of people.
    """
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs the same people, but got {len(first)} and {len(second)}")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return bootstrap_ci(differences, num_samples=num_samples, seed=seed, level=level)


def normalized(score: float, *, unpersonalized: float, oracle: float) -> float | None:
    """Where a score lies between the unpersonalized base (0) and the oracle (1); None where those two are the same.

    >>> normalized(0.5, unpersonalized=0.25, oracle=0.75)
    0.5
    """
    gap = oracle - unpersonalized
    return None if abs(gap) < 1e-9 else (score - unpersonalized) / gap
