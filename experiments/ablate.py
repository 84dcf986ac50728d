"""What each choice is worth: python -m experiments.ablate configs/faceworld/ablations.yaml

A variant is a hypernetwork and an evaluation with some fields changed, on the same seeds and people. Under `output`: a
folder per variant with pretrain/ and eval/, and ablations.md, a row per variant. Variants that change nothing of the
hypernetwork share one. An interrupted call goes on; finished runs are kept.
"""

import json
from pathlib import Path

from experiments import evaluate, pretrain
from experiments.cli import run
from experiments.runs import write_json, write_text
from hdb.config import Ablate, Variant, load

SHOWN = ("only_hyper", "hyperdreambooth")


def main(argv: list[str]) -> None:
    config = load(Ablate, argv)
    if not config.variants:
        raise ValueError("variants is empty, expected at least one name with its changes")
    folder, networks, rows = Path(config.output), {}, {}
    for name, variant in config.variants.items():
        words = Variant([*config.common.pretrain, *variant.pretrain], [*config.common.evaluate, *variant.evaluate])
        place = claim(folder / name.replace(" ", "-"), config, words)
        trained = networks.setdefault(tuple(words.pretrain), place / "pretrain")
        if not (trained / "metrics.json").is_file():
            print(f"{name}: hypernetwork")
            pretrain.main([config.pretrain, *words.pretrain, f"output={trained}"])
        if not (place / "eval" / "results.json").is_file():
            print(f"{name}: evaluation")
            last = f"hypernet={trained / 'last.ckpt'}"
            evaluate.main([config.evaluate, *words.evaluate, last, f"output={place / 'eval'}"])
        metrics = json.loads((trained / "metrics.json").read_text())
        rows[name] = metrics, json.loads((place / "eval" / "results.json").read_text())["methods"]
        write_text(folder / "ablations.md", table(rows))
    print(table(rows))


def claim(place: Path, config: Ablate, words: Variant) -> Path:
    """The folder of a variant.

    Raises:
        ValueError: it was begun with other changes.
    """
    record = place / "words.json"
    now = {"pretrain": [config.pretrain, *words.pretrain], "evaluate": [config.evaluate, *words.evaluate]}
    if record.is_file() and (begun := json.loads(record.read_text())) != now:
        raise ValueError(f"{place} was begun with {begun}, now it is {now}: expected another output or name")
    write_json(record, now)
    return place


def table(rows: dict[str, tuple[dict, dict]]) -> str:
    """Markdown: the loss under one's own theta less that under another's, and scores with 95 % intervals."""
    columns = [f"{method} {score}" for method in SHOWN for score in ("face_rec", "clip_t")]
    lines = [f"| variant | own minus other | {' | '.join(columns)} |", "|" + "---|" * (2 + len(columns))]
    for name, (metrics, methods) in rows.items():
        half = metrics["val/own_minus_other_ci95"]
        cells = [f"{metrics['val/own_minus_other']:+.4f} ± {half:.4f}"]
        for method in SHOWN:
            for score in ("face_rec", "clip_t"):
                entry = methods[method][score]
                low, high = entry["ci95"]
                cells.append(f"{entry['mean']:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
