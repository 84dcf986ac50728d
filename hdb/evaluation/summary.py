"""From scores of people to results.json: means with intervals, paired differences, the scale from base to oracle."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hdb.evaluation.scores import PersonScores
from hdb.evaluation.subjects import MethodCost
from hdb.methods.table import OURS, SCALE
from hdb.metrics.intervals import Interval, bootstrap_ci, normalized, paired_ci
from hdb.metrics.table import METRICS

COSTS = ("seconds", "seconds_alone", "bytes")
SHARES = ("prompted", "rank_1")  # shares of pictures, each in several parts
NOT_APART = "not told apart by this judge"
NO_SCALE = f"no scale without {' and '.join(SCALE)}"

Scale = dict[str, dict[str, Any]]


def summarize(
    per_method: Mapping[str, PersonScores], costs: Mapping[str, MethodCost], *, num_resamples: int, seed: int
) -> dict[str, Any]:
    """What results.json says of methods: `methods`, `paired` (ours minus each other one, by metric) and `scale`."""
    scale = oracle_scale(per_method, num_resamples=num_resamples, seed=seed)
    methods = {
        name: method_entry(scores, per_method, scale, num_resamples=num_resamples, seed=seed)
        for name, scores in per_method.items()
    }
    for name, cost in costs.items():
        methods[name] |= {**cost, "over_ours": cost_ratios(cost, costs[OURS])}
    paired = {
        name: differences(per_method[OURS], scores, num_resamples=num_resamples, seed=seed)
        for name, scores in per_method.items()
        if name != OURS
    }
    return {"scale": scale, "methods": methods, "paired": paired}


def oracle_scale(per_method: Mapping[str, PersonScores], *, num_resamples: int, seed: int) -> Scale:
    """Metric -> how far the oracle lies from the unpersonalized base, and whether the judge tells the two apart.

    It does if the whole interval of their paired difference lies on the better side of 0. Of one person there is no
    interval, and nothing is told apart. Empty where one end of the scale was not evaluated.
    """
    if not set(SCALE) <= per_method.keys():
        return {}
    unpersonalized, oracle = (per_method[end] for end in SCALE)
    scale = differences(oracle, unpersonalized, num_resamples=num_resamples, seed=seed)
    for name, difference in scale.items():
        ci95 = difference["ci95"]
        if ci95 is None:
            difference["apart"] = False
        else:
            difference["apart"] = ci95[0] > 0 if METRICS[name].higher_is_better else ci95[1] < 0
    return scale


def method_entry(
    scores: PersonScores, per_method: Mapping[str, PersonScores], scale: Scale, *, num_resamples: int, seed: int
) -> dict[str, Any]:
    """One method: means, intervals, the scores of each person to 4 digits, and where a mean lies on the scale.

    `normalized` is null, and `reason` says why, where there is no scale or the judge does not tell its ends apart.
    """
    entry: dict[str, Any] = {}
    for name in metric_names(scores):
        metric = to_json(bootstrap_ci(scores[name], num_samples=num_resamples, seed=seed))
        metric["normalized"] = None
        if scale and scale[name]["apart"]:
            unpersonalized, oracle = (float(per_method[end][name].mean()) for end in SCALE)
            metric["normalized"] = normalized(metric["mean"], unpersonalized=unpersonalized, oracle=oracle)
        else:
            metric["reason"] = NOT_APART if scale else NO_SCALE
        metric["per_identity"] = [round(float(score), 4) for score in scores[name]]
        entry[name] = metric
    if "others" in scores:
        entry["face_rec"]["others"] = float(scores["others"].mean())
    for name, shares in scores.items():
        share, _, part = name.partition("/")
        if part:
            interval = bootstrap_ci(shares, num_samples=num_resamples, seed=seed)
            entry.setdefault(share, {})[part] = to_json(interval)
    return entry


def cost_ratios(cost: MethodCost, ours: MethodCost) -> dict[str, float | None]:
    """What a method costs over what ours does; null where nothing is made for a person."""
    return {name: cost[name] / ours[name] if cost[name] and ours[name] else None for name in COSTS}


def differences(
    first: Mapping[str, np.ndarray | Sequence[float]],
    second: Mapping[str, np.ndarray | Sequence[float]],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """First minus second, person by person, for each metric."""
    return {
        name: to_json(paired_ci(first[name], second[name], num_samples=num_resamples, seed=seed))
        for name in metric_names(first)
    }


def to_json(interval: Interval) -> dict[str, Any]:
    """An interval as results.json has it; `ci95` is null for one person."""
    ci95 = None if interval.low is None else [interval.low, interval.high]
    return {"mean": interval.mean, "ci95": ci95}


def metric_names(scores: Iterable[str]) -> list[str]:
    """Those of the list of metrics that were scored, in its order; results may be older than a metric."""
    names = set(scores)
    return [name for name in METRICS if name in names]


def logged_means(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """All means under the names that a run logs: eval/<method>/<metric> and eval/<method>/<share>/<part>."""
    means = {}
    for method, entry in methods.items():
        for name in metric_names(entry):
            means[f"eval/{method}/{name}"] = entry[name]["mean"]
    for method, entry in methods.items():
        for share in SHARES:
            for part, interval in entry.get(share, {}).items():
                means[f"eval/{method}/{share}/{part}"] = interval["mean"]
    return means
