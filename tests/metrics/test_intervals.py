"""How certain means over people are."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from hdb.metrics.intervals import Interval, bootstrap_ci, normalized, paired_ci


def test_bootstrap_interval_equals_scipy_s():
    scores = np.random.default_rng(0).normal(0.5, 0.1, 40)
    ours = bootstrap_ci(scores, num_samples=20000, seed=1)
    theirs = bootstrap((scores,), np.mean, n_resamples=20000, method="percentile", rng=2).confidence_interval
    assert ours.mean == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=1.5e-3)


def test_bootstrap_is_repeatable_and_narrows_with_more_people():
    scores = np.random.default_rng(0).normal(0.5, 0.1, 400)
    assert bootstrap_ci(scores, seed=3) == bootstrap_ci(scores, seed=3)
    few, many = bootstrap_ci(scores[:25]), bootstrap_ci(scores)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.35)


def test_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(0)
    people = rng.normal(0.5, 0.2, 30)  # some people are easier than others, for every method
    better, worse = people + rng.normal(0.05, 0.02, 30), people
    difference = paired_ci(better, worse)
    assert difference.low > 0 and bootstrap_ci(better).low < bootstrap_ci(worse).high
    assert difference.mean == pytest.approx((better - worse).mean())
    with pytest.raises(ValueError, match="got 30 and 29"):
        paired_ci(better, worse[1:])


def test_one_person_has_a_mean_and_no_interval():
    assert bootstrap_ci([0.763]) == Interval(0.763, None, None)
    assert paired_ci([0.75], [0.5]) == Interval(0.25, None, None)


def test_intervals_of_nothing_or_of_nan_are_refused():
    for scores in ([], [float("nan")], [0.5, float("nan")], [[0.5]]):
        with pytest.raises(ValueError, match="finite numbers, one per person"):
            bootstrap_ci(np.array(scores))


def test_normalized_score_is_0_for_the_base_and_1_for_the_oracle():
    values = [normalized(score, unpersonalized=0.2, oracle=0.7) for score in (0.2, 0.7, 0.45, 0.1)]
    assert values == pytest.approx([0, 1, 0.5, -0.2])
    assert normalized(0.5, unpersonalized=0.3, oracle=0.3) is None
