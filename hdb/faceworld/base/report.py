"""The page beside faceworld's weights: what was measured, what was trained and what that saw, and the pictures."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from hdb.faces.people import SPLITS_FILE
from hdb.faces.splits import Splits
from hdb.faceworld.world import SPLITS
from hdb.training.curves import Curve, read_curve

# Title, file beside the weights, words above it; a file that is not there is not shown.
PICTURES = (
    ("Curves", "curves.png", "The loss of each training that left its curve."),
    ("The base's own pictures", "samples.png", "Unpersonalized, for prompts of the training grammar; none was chosen."),
    (
        "Subjects beside the oracle",
        "subjects.png",
        'For each prompt ours, then the true answer. Drawn by `make eval SET="num_identities=10 num_prompts=12 '
        'num_pictures=1 methods=[hyperdreambooth,oracle] output=outputs/sheet"`: '
        "outputs/sheet/grid.png at half its size.",
    ),
)
# The same of pages, after the pictures.
PAGES = (
    (
        "Ablations",
        "ablations.md",
        "One change a row: `python -m experiments.ablate configs/faceworld/ablations.yaml` writes "
        "outputs/ablations/ablations.md, which is copied here.\n\n",
    ),
    ("Notes", "notes.md", ""),
)
CURVES_FILE = "curves.json"  # beside the weights: name -> curve
SEEN = ("identities", "pictures", "styles", "pairs")  # what a training writes down of its data


def records(weights: Path, trainings: Mapping[str, tuple[Path, str]]) -> tuple[dict[str, dict], dict[str, Curve]]:
    """What the trainings of the networks that lie here wrote down: steps, seconds and what was seen; and their curves.

    What report.json and curves.json say already stays, since the trainings of shipped weights are on another machine.

    Args:
        weights: the folder of networks.
        trainings: name -> the training's folder, and the network's within `weights`. A training of other weights than
            these does not count.
    """
    files = weights / "report.json", weights / CURVES_FILE
    report, curves = (json.loads(file.read_text()) if file.is_file() else {} for file in files)
    trained = report.get("trained", {})
    for name, (folder, network) in trainings.items():
        record = part_record(folder) or hypernet_record(folder)
        if record and record["weights"] == weights_digest(weights / network):
            trained[name], curves[name] = record, read_curve(folder)
    return trained, curves


def part_record(folder: Path) -> dict | None:
    """Of a finished training of a part of the base."""
    if not (folder / "done.json").is_file():
        return None
    return json.loads((folder / "done.json").read_text())


def hypernet_record(folder: Path) -> dict | None:
    """Of a finished training of a hypernetwork on faceworld; whom it saw is in its splits."""
    if not (folder / "metrics.json").is_file():
        return None
    metrics, splits = json.loads((folder / "metrics.json").read_text()), Splits.load(folder / SPLITS_FILE)
    if not splits.data.startswith("faceworld"):
        return None
    people = [int(name) for name in splits.train]
    return {
        "steps": metrics["step"],
        "seconds": round(metrics["seconds"]),
        "weights": weights_digest(folder / "hypernet"),
        "seen": {"identities": [min(people), max(people)]},
    }


def weights_digest(folder: Path) -> str:
    """Sixteen hex digits of the safetensors in a folder."""
    sha = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def markdown(report: dict, weights: Path) -> str:
    """The report as a page, with the pictures and pages that lie beside the weights, notes.md last."""
    lines = [
        f"# What these weights reach\n\n{report['resolution']} px, measured on test identities, {report['device']}.\n"
    ]
    lines += ["| part | what | value |", "|---|---|---|"]
    lines += [
        f"| {part} | {name} | {value:.3f} |" for part, row in report["measured"].items() for name, value in row.items()
    ]
    lines += [f"\n| training | steps | seconds | {' | '.join(SEEN)} |", "|---" * (3 + len(SEEN)) + "|"]
    for name, training in report["trained"].items():
        seen = dict.fromkeys(SEEN, "") | training["seen"]  # a hypernetwork knows its people only
        seen["identities"] = "{} to {}".format(*seen["identities"])
        if seen["styles"]:
            seen["styles"] = len(seen["styles"])
        cells = [name, training["steps"], training["seconds"], *(seen[what] for what in SEEN)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    test = SPLITS["test"]
    lines.append(f"\nTest identities are {test[0]} to {test[-1]}; pairs are of style and context.")
    for title, name, words in PICTURES:
        if (weights / name).is_file():
            lines.append(f"\n## {title}\n\n{words}\n\n![{title}]({name})")
    for title, name, words in PAGES:
        if (weights / name).is_file():
            lines.append(f"\n## {title}\n\n{words}{(weights / name).read_text().rstrip()}")
    return "\n".join([*lines, ""])
