"""What each choice is worth: python -m experiments.ablate configs/faceworld/ablations.yaml

A variant is a hypernetwork and an evaluation with some fields changed, on the same seeds and people. Under `output`: a
folder per variant with pretrain/ and eval/, and preoptimize/ if it has pre-optimized targets; ablations.md, a row per
variant. Variants that change nothing of the targets or of the hypernetwork share them. An interrupted call goes on;
finished runs are kept.
"""

import json
from dataclasses import asdict
from pathlib import Path

from experiments import evaluate, preoptimize, pretrain
from experiments.cli import run
from experiments.config import Ablate, Evaluate, Preoptimize, Pretrain, Variant, dotted, load
from experiments.methods import methods_named
from hdb.files import write_json, write_text
from hdb.metrics.similarity import paired_ci

SHOWN = ("only_hyper", "no_hyper", "hyperdreambooth")
SCORES = ("face_rec", "clip_t")
# In what targets and the training that uses them must agree: numbers of people are the same in every world and base.
FITTING = (
    *(f"base.{field}" for field in ("path", "revision")),
    *(f"lidb.{field}" for field in ("a", "b", "rank", "seed")),
    *(f"faces.{field}" for field in ("source", "root", "splits", "seed")),
)
PAIRED = ("only_hyper", "hyperdreambooth")  # methods whose face_rec is compared with the first variant's


def main(argv: list[str]) -> None:
    config = load(Ablate, argv)
    if not config.variants:
        raise ValueError("variants is empty, expected at least one name with its changes")
    folder, networks, targets, rows = Path(config.output), {}, {}, {}
    plans = {name: plan(name, config) for name in config.variants}  # all are checked before the first begins
    for name, words in plans.items():
        place, trained_with = claim(folder / name.replace(" ", "-"), config, words), list(words.pretrain)
        if words.preoptimize:
            thetas = targets.setdefault(tuple(words.preoptimize), place / "preoptimize")
            trained_with.append(f"thetas={thetas}")
            if not (thetas / "metrics.json").is_file():
                print(f"{name}: targets")
                preoptimize.main([*words.preoptimize, f"output={thetas}"])
        trained = networks.setdefault(tuple(trained_with), place / "pretrain")
        if not (trained / "metrics.json").is_file():
            print(f"{name}: hypernetwork")
            pretrain.main([*trained_with, f"output={trained}"])
        if not (place / "eval" / "results.json").is_file():
            print(f"{name}: evaluation")
            last = f"hypernet={trained / 'last.ckpt'}"
            evaluate.main([*words.evaluate, last, f"output={place / 'eval'}"])
        metrics = json.loads((trained / "metrics.json").read_text())
        rows[name] = metrics, json.loads((place / "eval" / "results.json").read_text())
        write_text(folder / "ablations.md", table(rows))
    print(table(rows))


def plan(name: str, config: Ablate) -> Variant:
    """All words of a variant, YAMLs first; none for `preoptimize` where it needs no targets.

    Raises:
        ValueError: one of its experiments would not take these words; it needs targets and there is no YAML for them,
            or they would not be used or not fit.
    """
    common, variant = config.common, config.variants[name]
    words = Variant(
        pretrain=[config.pretrain, *common.pretrain, *variant.pretrain],
        evaluate=[config.evaluate, *common.evaluate, *variant.evaluate],
    )
    training = load(Pretrain, words.pretrain)
    methods_named(load(Evaluate, words.evaluate).methods)
    if not variant.preoptimize and not (training.beta > 0 and training.thetas is None):
        return words
    if not training.beta > 0:
        given = f"variant {name!r} has words for preoptimize, but beta is {training.beta}"
        raise ValueError(f"{given}: expected beta above 0 among its words for pretrain, else nothing uses its targets")
    if config.preoptimize is None:
        raise ValueError(f"variant {name!r} needs targets, but preoptimize is null; expected the YAML they start from")
    words.preoptimize = [config.preoptimize, *common.preoptimize, *variant.preoptimize]
    fitting = load(Preoptimize, words.preoptimize)
    of_targets, wanted = dotted(fitting), dotted(training)
    for key in FITTING:
        if of_targets[key] != wanted[key]:
            given = f"variant {name!r} has targets of {key} = {of_targets[key]}"
            raise ValueError(f"{given}, expected {wanted[key]} as in pretrain")
    num, wanted = fitting.faces.num_identities, training.faces.num_identities
    if num is not None and (wanted is None or num < wanted):
        raise ValueError(f"variant {name!r} has targets of {num} people, expected {wanted or 'all'} as in pretrain")
    return words


def claim(place: Path, config: Ablate, words: Variant) -> Path:
    """The folder of a variant.

    Raises:
        ValueError: it was begun with other changes.
    """
    record = place / "words.json"
    now = asdict(words)
    if record.is_file() and (begun := json.loads(record.read_text())) != now:
        raise ValueError(f"{place} was begun with {begun}, now it is {now}: expected another output or name")
    write_json(record, now)
    return place


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


if __name__ == "__main__":
    run(main)
