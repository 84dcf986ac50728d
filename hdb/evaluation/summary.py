"""From scores of people to results.json: means, their intervals over people, the scale they lie on, what differs."""

from collections.abc import Mapping
from typing import Any

from hdb.evaluation.scores import PerIdentity
from hdb.evaluation.subjects import Cost
from hdb.methods.table import OURS, SCALE
from hdb.metrics.intervals import Interval, bootstrap_ci, normalized, paired_ci

SCORES = ("face_rec", "dino", "clip_i", "clip_t")
COSTS = ("seconds", "seconds_alone", "bytes")
NOT_APART = "not told apart by this judge"
NO_SCALE = f"no scale without {' and '.join(SCALE)}"

Scale = dict[str, dict[str, Any]]


def summarize(
    per_method: Mapping[str, PerIdentity], costs: Mapping[str, Cost], *, num_resamples: int, seed: int
) -> dict[str, Any]:
    """What results.json says of methods: `methods`, `paired` (ours minus each other one, by score) and `scale`."""
    resampling = {"num_samples": num_resamples, "seed": seed}
    ends = scale(per_method, **resampling)
    methods = {m: entry(scores, per_method, ends, **resampling) for m, scores in per_method.items()}
    for name, cost in costs.items():
        methods[name] |= {**cost, "over_ours": ratios(cost, costs[OURS])}
    others = [name for name in per_method if name != OURS]
    paired = {name: differences(per_method[OURS], per_method[name], **resampling) for name in others}
    return {"scale": ends, "methods": methods, "paired": paired}


def scale(per_method: Mapping[str, PerIdentity], **resampling: int) -> Scale:
    """Score -> how far the oracle lies above the unpersonalized base, and whether a judge tells the two apart.

    It does where the interval of their paired difference, which one person has none of, lies above 0: a judge that
    puts the true answer below no answer has no scale. Empty where an end is missing.
    """
    if not set(SCALE) <= per_method.keys():
        return {}
    low, high = (per_method[end] for end in SCALE)
    found = differences(high, low, **resampling)
    for name, of in found.items():
        of["apart"] = len(high[name]) > 1 and of["ci95"][0] > 0
    return found


def entry(scores: PerIdentity, per_method: Mapping[str, PerIdentity], ends: Scale, **resampling: int) -> dict[str, Any]:
    """One method: means, intervals, scores of each person to 4 digits, and where a mean lies on the scale.

    `normalized` is null, and `reason` says why, where there is no scale or the judge does not tell its ends apart.
    """
    found: dict[str, Any] = {}
    for name in SCORES:
        found[name] = written(bootstrap_ci(scores[name], **resampling)) | {"normalized": None}
        if ends and ends[name]["apart"]:
            low, high = (float(per_method[end][name].mean()) for end in SCALE)
            found[name]["normalized"] = normalized(found[name]["mean"], unpersonalized=low, oracle=high)
        else:
            found[name]["reason"] = NOT_APART if ends else NO_SCALE
        found[name]["per_identity"] = [round(float(score), 4) for score in scores[name]]
    if "others" in scores:
        found["face_rec"]["others"] = float(scores["others"].mean())
    for name, shares in scores.items():
        score, _, part = name.partition("/")
        if part:
            found.setdefault(score, {})[part] = written(bootstrap_ci(shares, **resampling))
    return found


def ratios(cost: Cost, ours: Cost) -> dict[str, float | None]:
    """What a method costs over what ours does; null where nothing is made of a person."""
    return {name: cost[name] / ours[name] if cost[name] and ours[name] else None for name in COSTS}


def differences(first: PerIdentity, second: PerIdentity, **resampling: int) -> dict[str, dict[str, Any]]:
    """First minus second, person by person, for each score."""
    return {name: written(paired_ci(first[name], second[name], **resampling)) for name in SCORES}


def written(interval: Interval) -> dict[str, Any]:
    """As results.json has it."""
    return {"mean": interval.mean, "ci95": [interval.low, interval.high]}


def logged(methods: Mapping[str, dict]) -> dict[str, float]:
    """All means under the names that a run logs: eval/<method>/<score>[/<part>]."""
    means = {f"eval/{m}/{name}": entry[name]["mean"] for m, entry in methods.items() for name in SCORES}
    return means | {
        f"eval/{m}/{score}/{part}": share["mean"]
        for m, entry in methods.items()
        for score in ("prompted", "rank_1")
        for part, share in entry.get(score, {}).items()
    }
