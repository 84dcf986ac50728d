"""Table of ablations: a row for each variant of a hypernetwork and its evaluation."""

from collections.abc import Mapping
from typing import Any

from hdb.evaluation.tables import Table, bounds
from hdb.methods.table import OURS
from hdb.metrics.intervals import paired_ci

SHOWN = ("only_hyper", "no_hyper", OURS)
METRICS_SHOWN = ("face_rec", "clip_t")
PAIRED = ("only_hyper", OURS)  # methods whose face_rec is compared with the first variant's
PRETRAINING = ("val/own_minus_other", "val/own_minus_other_ci95", "val/own_better")  # of metrics.json


def variant_record(metrics: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """What the table needs of a variant, small enough to be committed.

    Args:
        metrics: metrics.json of its pretraining.
        results: results.json of its evaluation.
    """
    methods = {
        method: {score: {key: entry[score][key] for key in ("mean", "ci95", "per_identity")} for score in METRICS_SHOWN}
        for method, entry in results["methods"].items()
        if method in SHOWN
    }
    return {
        "metrics": {name: metrics[name] for name in PRETRAINING},
        "identities": results["protocol"]["identities"],
        "methods": methods,
    }


def ablation_table(variants: Mapping[str, Mapping[str, Any]]) -> Table:
    """How well people are told apart, scores, and what face_rec gains over the first variant.

    A cell is empty where a variant lacks the method.

    Args:
        variants: name -> `variant_record`.
    """
    evaluated = {method for record in variants.values() for method in record["methods"]}
    shown = [method for method in SHOWN if method in evaluated]
    paired = [method for method in PAIRED if method in evaluated]
    first, baseline = next(iter(variants.items()))
    columns = ["variant", "own minus other", "own better"]
    columns += [f"{method} {score}" for method in shown for score in METRICS_SHOWN]
    columns += [f"{method} face_rec minus {first}" for method in paired]
    rows = []
    for name, record in variants.items():
        difference, half_width, own_better = (record["metrics"][metric] for metric in PRETRAINING)
        told_apart = ["", ""]  # one validation person cannot be told from another
        if difference is not None:
            told_apart = [f"{difference:+.4f} ± {half_width:.4f}", f"{own_better:.3f}"]
        cells = [name, *told_apart]
        for method in shown:
            cells += [score_cell(record["methods"].get(method), score) for score in METRICS_SHOWN]
        cells += ["" if name == first else gain_cell(record, baseline, method) for method in paired]
        rows.append(cells)
    note = (
        "own minus other: denoising loss under one's own theta less that under another person's. Brackets: 95 % "
        "intervals over people. Differences are taken person by person."
    )
    return Table("Ablations", columns, rows, note)


def score_cell(entry: Mapping[str, Any] | None, score: str) -> str:
    """A mean and its interval; empty where the method is missing."""
    return "" if entry is None else f"{entry[score]['mean']:.3f}{bounds(entry[score])}"


def gain_cell(record: Mapping[str, Any], baseline: Mapping[str, Any], method: str) -> str:
    """The difference of face_rec over the people that both variants evaluated; empty where one did not."""
    ours = face_rec_by_identity(record, method)
    theirs = face_rec_by_identity(baseline, method)
    both = [identity for identity in ours if identity in theirs]
    if not both:
        return ""
    gain = paired_ci([ours[identity] for identity in both], [theirs[identity] for identity in both])
    ends = "" if gain.low is None else f" [{gain.low:+.3f}, {gain.high:+.3f}]"
    return f"{gain.mean:+.3f}{ends}"


def face_rec_by_identity(record: Mapping[str, Any], method: str) -> dict[str, float]:
    """Identity -> score; empty where the method is missing."""
    if method not in record["methods"]:
        return {}
    return dict(zip(record["identities"], record["methods"][method]["face_rec"]["per_identity"], strict=True))
