"""What each choice is worth: a row for each variant of a hypernetwork and its evaluation."""

from hdb.methods.table import OURS
from hdb.metrics.intervals import paired_ci

SHOWN = ("only_hyper", "no_hyper", OURS)
SCORES = ("face_rec", "clip_t")
PAIRED = ("only_hyper", OURS)  # methods whose face_rec is compared with the first variant's


def table(rows: dict[str, tuple[dict, dict]]) -> str:
    """Markdown: how well people are told apart, scores, and what face_rec gains over the first variant.

    People are told apart by the loss under one's own theta less that under another's. Intervals are of 95 %; gains are
    differences person by person. A cell is empty where a variant lacks the method.

    Args:
        rows: variant -> (metrics.json, results.json).
    """
    known = {method for _, results in rows.values() for method in results["methods"]}
    shown = [method for method in SHOWN if method in known]
    gains = [method for method in PAIRED if method in known]
    first, (_, baseline) = next(iter(rows.items()))
    columns = ["variant", "own minus other", "own better"]
    columns += [f"{method} {score}" for method in shown for score in SCORES]
    columns += [f"{method} face_rec minus {first}" for method in gains]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, (metrics, results) in rows.items():
        half = metrics["val/own_minus_other_ci95"]
        cells = [name, f"{metrics['val/own_minus_other']:+.4f} ± {half:.4f}", f"{metrics['val/own_better']:.3f}"]
        for method in shown:
            cells += [score_cell(results["methods"].get(method), score) for score in SCORES]
        cells += ["" if name == first else gain_cell(results, baseline, method) for method in gains]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def score_cell(entry: dict | None, score: str) -> str:
    """Mean and interval."""
    if entry is None:
        return ""
    low, high = entry[score]["ci95"]
    return f"{entry[score]['mean']:.3f} [{low:.3f}, {high:.3f}]"


def gain_cell(results: dict, baseline: dict, method: str) -> str:
    """The difference of face_rec over the people that both variants evaluated; empty where one did not."""
    ours, theirs = face_rec_of_people(results, method), face_rec_of_people(baseline, method)
    both = [person for person in ours if person in theirs]
    if not both:
        return ""
    gain = paired_ci([ours[person] for person in both], [theirs[person] for person in both])
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def face_rec_of_people(results: dict, method: str) -> dict[str, float]:
    """Person -> score; nobody where the method is missing."""
    if method not in results["methods"]:
        return {}
    return dict(
        zip(results["protocol"]["identities"], results["methods"][method]["face_rec"]["per_identity"], strict=True)
    )
