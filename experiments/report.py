"""The page beside faceworld's weights: what was measured, what was trained and what that saw, and the pictures."""

import json
from collections.abc import Mapping
from pathlib import Path

from experiments.people import SPLITS_FILE
from hdb.faces.splits import Splits
from hdb.faceworld.world import SPLITS

# Title, file beside the weights, words above it; a file that is not there is not shown.
PICTURES = (
    ("Curves", "curves.png", "The loss of each training that left its curve."),
    ("The base's own pictures", "samples.png", "Unpersonalized, for prompts of the training grammar; none was chosen."),
    (
        "Subjects beside the oracle",
        "subjects.png",
        'For each prompt ours, then the true answer. Drawn by `make eval SET="num_identities=10 num_prompts=12 '
        'num_pictures=1 methods=[hyperdreambooth,oracle] output=outputs/sheet"`, and copied from '
        "outputs/sheet/grid.png.",
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
SEEN = ("identities", "pictures", "styles", "pairs")  # what a training writes down of its data


def records(folders: Mapping[str, Path], *, base_digest: str) -> dict[str, dict]:
    """What finished trainings wrote down: steps, seconds and what was seen.

    Args:
        folders: of the base's parts, and of "hypernetwork", which counts if it was trained on this base and on
            faceworld's people; whom it saw is in its splits.
    """
    files = {name: folder / "done.json" for name, folder in folders.items()}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    folder = folders["hypernetwork"]
    if (folder / "metrics.json").is_file():
        metrics, splits = json.loads((folder / "metrics.json").read_text()), Splits.load(folder / SPLITS_FILE)
        if metrics["base_digest"] == base_digest and splits.data.startswith("faceworld"):
            people = [int(name) for name in splits.train]
            seen = {"identities": [min(people), max(people)]}
            found["hypernetwork"] = {"steps": metrics["step"], "seconds": round(metrics["seconds"]), "seen": seen}
    return found


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
        seen = dict.fromkeys(SEEN, "") | training.get("seen", {})  # an earlier record may not say
        if seen["identities"]:
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
