"""From scores to the tables: means, their intervals over people, where they lie on the scale, what differs."""

from collections.abc import Mapping

from hdb.evaluation.scores import PerIdentity
from hdb.methods.table import OURS, SCALE
from hdb.metrics.intervals import Interval, bootstrap_ci, normalized, paired_ci

SCORES = ("face_rec", "dino", "clip_i", "clip_t")


def summarize(per_method: Mapping[str, PerIdentity], *, num_resamples: int, seed: int) -> dict[str, dict]:
    """Means, 95 % intervals over people, normalized scores of every method, and scores of each person to 4 digits."""
    options = {"num_samples": num_resamples, "seed": seed}
    intervals = {m: {name: bootstrap_ci(of[name], **options) for name in SCORES} for m, of in per_method.items()}
    summary: dict[str, dict] = {}
    for method, scores in per_method.items():
        summary[method] = {}
        for name, interval in intervals[method].items():
            entry = {**written(interval), "normalized": None}
            if set(SCALE) <= intervals.keys():
                low, high = (intervals[end][name].mean for end in SCALE)
                entry["normalized"] = normalized(interval.mean, unpersonalized=low, oracle=high)
            summary[method][name] = entry | {"per_identity": [round(float(score), 4) for score in scores[name]]}
        if "others" in scores:
            summary[method]["face_rec"]["others"] = float(scores["others"].mean())
        for name, shares in scores.items():
            score, _, part = name.partition("/")
            if part:
                summary[method].setdefault(score, {})[part] = written(bootstrap_ci(shares, **options))
    return summary


def written(interval: Interval) -> dict[str, float | list[float]]:
    """As results.json has it."""
    return {"mean": interval.mean, "ci95": [interval.low, interval.high]}


def paired(per_method: Mapping[str, PerIdentity], *, num_resamples: int, seed: int) -> dict[str, dict]:
    """Ours minus each other method, person by person: {method: {score: {mean, ci95}}}."""
    ours, differences = per_method[OURS], {}
    for method in (name for name in per_method if name != OURS):
        theirs = per_method[method]
        intervals = {n: paired_ci(ours[n], theirs[n], num_samples=num_resamples, seed=seed) for n in SCORES}
        differences[method] = {name: written(interval) for name, interval in intervals.items()}
    return differences


def logged(methods: Mapping[str, dict]) -> dict[str, float]:
    """All means under the names that a run logs: eval/<method>/<score>[/<part>]."""
    means = {f"eval/{m}/{name}": entry[name]["mean"] for m, entry in methods.items() for name in SCORES}
    return means | {
        f"eval/{m}/{score}/{part}": share["mean"]
        for m, entry in methods.items()
        for score in ("prompted", "rank_1")
        for part, share in entry.get(score, {}).items()
    }


def table(methods: Mapping[str, dict]) -> str:
    """The scores as text: mean, half-width of the interval, normalized."""
    lines = [f"{'':18}" + "".join(f"{name:^24}" for name in SCORES) + f"{'seconds':>8}{'bytes':>9}"]
    for method, entry in methods.items():
        cells = []
        for name in SCORES:
            low, high = entry[name]["ci95"]
            share = entry[name]["normalized"]
            on_scale = "" if share is None else f"({share:+.2f})"
            cells.append(f"{entry[name]['mean']:8.3f} ±{(high - low) / 2:.3f} {on_scale:8}")
        lines.append(f"{method:18}" + "".join(cells) + f"{entry['seconds']:8.1f}{entry['bytes']:9.0f}")
    lines.append("mean ± half of the 95 % interval over people; in brackets 0 = unpersonalized, 1 = oracle")
    return "\n".join(lines)


def shares_table(methods: Mapping[str, dict], *, gallery: int) -> str:
    """What the prompt asked for, and who was recognized among `gallery` people, as text: shares of pictures."""
    first = next(iter(methods.values()))
    columns = [(score, part) for score in ("prompted", "rank_1") for part in first.get(score, {})]
    names = [part if score == "prompted" else f"{score} {part}" for score, part in columns]
    lines = [f"{'':18}" + "".join(f"{name:^16}" for name in names)]
    for method, entry in methods.items():
        cells = []
        for score, part in columns:
            low, high = entry[score][part]["ci95"]
            cells.append(f"{entry[score][part]['mean']:8.3f} ±{(high - low) / 2:.3f} ")
        lines.append((f"{method:18}" + "".join(cells)).rstrip())
    chance = f"chance {1 / gallery:.3f}"
    lines.append(f"shares of pictures that are right; rank_1: the nearest of {gallery} people is their own, {chance}")
    return "\n".join(lines)
