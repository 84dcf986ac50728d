"""The report beside faceworld's weights: measures, records of the trainings, and pictures."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from hdb.faces.splits import SPLITS_FILE, Splits
from hdb.faceworld.splits import SPLITS
from hdb.training.curves import Curve, read_curve

# Title, file beside the weights, text above it. Files that do not exist are left out.
PICTURES = (
    ("Curves", "curves.png", "The loss of each training that left its curve."),
    ("The base's own pictures", "samples.png", "Unpersonalized, for prompts of the training grammar; none was chosen."),
    (
        "Subjects beside the oracle",
        "subjects.png",
        'For each prompt ours, then the true answer. Drawn by `make eval SET="protocol.num_identities=10 '
        "protocol.num_prompts=12 protocol.num_pictures=1 methods.names=[hyperdreambooth,oracle] "
        'output=outputs/sheet"`: outputs/sheet/grid.png at half its size.',
    ),
)
PAGES = (  # as PICTURES
    (
        "Ablations",
        "ablations.md",
        "One change a row: `python -m experiments.ablate configs/faceworld/ablations.yaml` writes "
        "outputs/ablations/ablations.md, which is copied here.\n\n",
    ),
    ("Notes", "notes.md", ""),
)
CURVES_FILE = "curves.json"  # beside the weights: name -> curve
DATA_COLUMNS = ("identities", "pictures", "styles", "pairs")  # what a training records of its data, under "seen"


def training_records(
    weights: Path, trainings: Mapping[str, tuple[Path, str]]
) -> tuple[dict[str, dict], dict[str, Curve]]:
    """Records (steps, seconds, data) and loss curves of the trainings of some networks.

    Entries of report.json and curves.json are kept where there is no newer one: the trainings of shipped weights are on
    another machine.

    Args:
        weights: the folder of networks.
        trainings: name -> the folder of the training, and that of the network within `weights`. A training of other
            weights than these is left out.
    """
    trained = read_json(weights / "report.json").get("trained", {})
    curves = read_json(weights / CURVES_FILE)
    for name, (folder, network) in trainings.items():
        record = part_record(folder) or hypernet_record(folder)
        if record and record["weights"] == safetensors_digest(weights / network):
            trained[name] = record
            curves[name] = read_curve(folder)
    return trained, curves


def read_json(file: Path) -> dict:
    """The content of a JSON file; {} where there is none."""
    return json.loads(file.read_text()) if file.is_file() else {}


def part_record(folder: Path) -> dict | None:
    """The record of a finished training of a part of the base."""
    if not (folder / "done.json").is_file():
        return None
    return json.loads((folder / "done.json").read_text())


def hypernet_record(folder: Path) -> dict | None:
    """The record of a finished training of a hypernetwork on faceworld; its people are those of its splits."""
    if not (folder / "metrics.json").is_file():
        return None
    metrics = read_json(folder / "metrics.json")
    splits = Splits.load(folder / SPLITS_FILE)
    if not splits.data.startswith("faceworld"):
        return None
    people = [int(name) for name in splits.train]
    return {
        "steps": metrics["step"],
        "seconds": round(metrics["seconds"]),
        "weights": safetensors_digest(folder / "hypernet"),
        "seen": {"identities": [min(people), max(people)]},
    }


def safetensors_digest(folder: Path) -> str:
    """Sixteen hex digits of the sha256 of a network's weights. Other safetensors may lie beside them."""
    sha = hashlib.sha256()
    for file in sorted(folder.glob("*model*.safetensors")):
        sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def markdown(report: dict, weights: Path) -> str:
    """The report as Markdown, with the pictures and pages that lie beside the weights."""
    lines = [
        f"# What these weights reach\n\n{report['resolution']} px, measured on test identities, {report['device']}.\n"
    ]
    lines += ["| part | what | value |", "|---|---|---|"]
    lines += [
        f"| {part} | {name} | {value:.3f} |" for part, row in report["measured"].items() for name, value in row.items()
    ]
    lines += [f"\n| training | steps | seconds | {' | '.join(DATA_COLUMNS)} |", "|---" * (3 + len(DATA_COLUMNS)) + "|"]
    for name, training in report["trained"].items():
        data = dict.fromkeys(DATA_COLUMNS, "") | training["seen"]  # a hypernetwork records its people only
        data["identities"] = "{} to {}".format(*data["identities"])
        if data["styles"]:
            data["styles"] = len(data["styles"])
        cells = [name, training["steps"], training["seconds"], *(data[column] for column in DATA_COLUMNS)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    test = SPLITS["test"]
    lines.append(f"\nTest identities are {test[0]} to {test[-1]}; pairs are of style and context.")
    for title, name, text in PICTURES:
        if (weights / name).is_file():
            lines.append(f"\n## {title}\n\n{text}\n\n![{title}]({name})")
    for title, name, text in PAGES:
        if (weights / name).is_file():
            lines.append(f"\n## {title}\n\n{text}{(weights / name).read_text().rstrip()}")
    return "\n".join([*lines, ""])
