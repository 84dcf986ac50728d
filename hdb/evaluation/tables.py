"""Tables of results.json: scores and costs, differences from ours, shares of pictures, and the paper's tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdb.evaluation.summary import NOT_APART, SHARES, metric_names
from hdb.methods.table import OURS, SCALE

# As the paper calls them; a method that is not listed keeps its own name.
TITLES = {
    "unpersonalized": "base, unpersonalized",
    "mean_theta": "mean theta",
    "textual_inversion": "Textual Inversion",
    "dreambooth": "DreamBooth",
    "dreambooth_agg1": "DreamBooth-Agg-1",
    "dreambooth_agg2": "DreamBooth-Agg-2",
    "lora_dreambooth": "LoRA DreamBooth",
    "only_hyper": "hypernetwork alone",
    "no_hyper": "finetuning alone",
    "k1": "k = 1",
    OURS: "HyperDreamBooth",
    "somebody_else": "somebody else's file",
    "oracle": "oracle: the true answer",
}
# Source: Ruiz et al., HyperDreamBooth, tables 1 to 3, https://arxiv.org/abs/2307.06949
PAPER = {
    "Table 1: ways to personalize": (OURS, "dreambooth", "textual_inversion"),
    "Table 2: DreamBooth in fewer steps": (OURS, "dreambooth", "dreambooth_agg1", "dreambooth_agg2"),
    "Table 3: what each part is worth": ("no_hyper", "only_hyper", "k1", OURS),
}
# In README: the paper's method, those it is compared with, and its two parts alone.
SUMMARY = (OURS, "dreambooth", "textual_inversion", "no_hyper", "only_hyper")


@dataclass(frozen=True)
class Table:
    """Cells of text, the names of their columns, and a note below that explains them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def text(self) -> str:
        """The table with aligned columns, for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self.title, *(line.rstrip() for line in padded), self.note])

    def markdown(self) -> str:
        """The table for README, HyperDreamBooth in bold letters."""
        rows = [[f"**{row[0]}**", *row[1:]] if row[0] == TITLES[OURS] else row for row in self.rows]
        lines = [self.columns, ["---"] * len(self.columns), *rows]
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", self.note])


def all_tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of all methods, then those of the paper's whose methods were all evaluated."""
    return [score_table(results), difference_table(results), share_table(results), *paper_tables(results)]


def score_table(
    results: Mapping[str, Any], names: Iterable[str] | None = None, *, title: str = "Scores and costs"
) -> Table:
    """Means with intervals and places on the scale, seconds and bytes.

    Args:
        names: methods, one a row; None is all of them.
    """
    methods, scale, protocol = results["methods"], results["scale"], results["protocol"]
    metrics = scored_metrics(results)
    rows = []
    for name in methods if names is None else names:
        entry = methods[name]
        costs = ["", "", ""]
        if entry["bytes"]:
            costs = [three_digits(entry["seconds_alone"]), three_digits(entry["seconds"]), f"{entry['bytes']:.0f}"]
        rows.append([method_title(name, protocol), *(score_cell(entry[metric]) for metric in metrics), *costs])
    note = f"{protocol_size(protocol)}; mean" + ("" if has_one_person(protocol) else " [95 % interval over people]")
    if scale:
        gaps = [difference_cell(scale[metric]) if scale[metric]["apart"] else NOT_APART for metric in metrics]
        rows.append(["oracle minus unpersonalized", *gaps, "", "", ""])
        note += "; in brackets normalized to 0 = unpersonalized, 1 = oracle, where the judge tells these two apart"
    batch = f"{protocol['subjects_per_batch']} people, one where a method changes the base"
    note += f". Seconds of one person{device_clause(results)}, alone and as one of a batch of {batch}."
    return Table(title, ["method", *metrics, "seconds alone", "seconds in a batch", "bytes"], rows, note)


def summary_table(results: Mapping[str, Any]) -> Table:
    """Means and costs of the paper's methods, without intervals: five rows for README."""
    protocol, metrics = results["protocol"], scored_metrics(results)
    rows = []
    for name in SUMMARY:
        if name not in results["methods"]:
            continue
        entry = results["methods"][name]
        means = [typographic(f"{entry[metric]['mean']:.3f}") for metric in metrics]
        costs = [three_digits(entry["seconds_alone"]), f"{entry['bytes'] / 1e3:,.0f}"]
        rows.append([method_title(name, protocol), *means, *costs])
    note = f"{protocol_size(protocol)}; seconds for one person{device_clause(results)}; KB of the person's file."
    return Table("Summary", ["method", *metrics, "seconds", "KB"], rows, note)


def relative_table(results: Mapping[str, Any]) -> Table:
    """Scores as shares of what can be reached: of the oracle's, and of the base's own clip_t.

    Raises:
        ValueError: the base or the oracle was not evaluated.
    """
    methods = results["methods"]
    missing = [name for name in SCALE if name not in methods]
    if missing:
        raise ValueError(f"the results have no {missing[0]}, expected {' and '.join(SCALE)} among the methods")
    base, oracle = (methods[name] for name in SCALE)
    columns = ["method", "face_rec normalized", "clip_t / base"]
    columns += [f"rank_1 {part} / oracle" for part in oracle["rank_1"]]
    rows = []
    for name, entry in methods.items():
        normalized = entry["face_rec"]["normalized"]
        cells = ["" if normalized is None else typographic(f"{normalized:.2f}")]
        cells.append(f"{entry['clip_t']['mean'] / base['clip_t']['mean']:.3f}")
        for part, share in entry["rank_1"].items():
            reachable = oracle["rank_1"][part]["mean"]
            cells.append(f"{share['mean'] / reachable:.2f}" if reachable else "")
        rows.append([method_title(name, results["protocol"]), *cells])
    note = "face_rec normalized: 0 = unpersonalized, 1 = oracle. Ratios of means."
    return Table("Shares of what can be reached", columns, rows, f"{protocol_size(results['protocol'])}; {note}")


def difference_table(results: Mapping[str, Any], names: Iterable[str] | None = None, *, title: str = "Ours") -> Table:
    """Ours minus each other method, person by person, and the costs of the other over ours.

    Args:
        names: methods; None is all of them.
    """
    methods, paired, protocol = results["methods"], results["paired"], results["protocol"]
    metrics = scored_metrics(results)
    rows = []
    for name in paired if names is None else names:
        if name == OURS:
            continue
        over_ours = methods[name]["over_ours"]
        costs = [ratio_cell(over_ours["seconds_alone"]), ratio_cell(over_ours["bytes"])]
        differences = [difference_cell(paired[name][metric]) for metric in metrics]
        rows.append([method_title(name, protocol), *differences, *costs])
    note = "differences of the same people" + ("" if has_one_person(protocol) else " [95 % interval]")
    note = f"{protocol_size(protocol)}; {note}; seconds of one person alone."
    columns = ["ours minus", *metrics, "its seconds / ours", "its bytes / ours"]
    return Table(f"{title}: what differs", columns, rows, note)


def share_table(results: Mapping[str, Any]) -> Table:
    """Shares of pictures that show what the prompt asks for, and whose person is recognized among a gallery."""
    methods, gallery = results["methods"], results["protocol"]["gallery"]
    first = next(iter(methods.values()))
    parts = [(share, part) for share in SHARES for part in first.get(share, {})]
    columns = ["method", *(part if share == "prompted" else f"{share} {part}" for share, part in parts)]
    rows = []
    for name, entry in methods.items():
        cells = [score_cell(entry[share][part]) for share, part in parts]
        rows.append([method_title(name, results["protocol"]), *cells])
    note = f"shares of pictures that are right; rank_1: the nearest of {gallery} people is their own"
    return Table("Shares of pictures", columns, rows, f"{note}, chance {1 / gallery:.3f}.")


def paper_tables(results: Mapping[str, Any]) -> list[Table]:
    """Tables 1 to 3, each with its paired differences; one that lacks a method is left out."""
    tables = []
    for title, names in PAPER.items():
        if set(names) <= results["methods"].keys():
            tables += [score_table(results, names, title=title), difference_table(results, names, title=title)]
    return tables


def scored_metrics(results: Mapping[str, Any]) -> list[str]:
    """The metrics that results have, in the order of the list."""
    return metric_names(next(iter(results["methods"].values())))


def method_title(name: str, protocol: Mapping[str, Any]) -> str:
    """A method's name, with its number of steps where it has one of its own."""
    steps = protocol.get("settings", {}).get(name, {}).get("num_steps")
    return TITLES.get(name, name) + (f", {steps} steps" if steps else "")


def has_one_person(protocol: Mapping[str, Any]) -> bool:
    """Whether there is no interval, for lack of a second person."""
    return len(protocol["identities"]) == 1


def protocol_size(protocol: Mapping[str, Any]) -> str:
    """Numbers of people, prompts and pictures."""
    people = "1 unseen person" if has_one_person(protocol) else f"{len(protocol['identities'])} unseen people"
    return f"{people} × {len(protocol['prompts'])} prompts × {protocol['images']} pictures"


def score_cell(score: Mapping[str, Any]) -> str:
    """A mean, its interval, and its place on the scale, as far as there are any."""
    scaled = score.get("normalized")
    place = "" if scaled is None else f" ({scaled:+.2f})"
    return typographic(f"{score['mean']:.3f}{bounds(score)}{place}")


def difference_cell(difference: Mapping[str, Any]) -> str:
    """A difference with its sign, and its interval if there is one."""
    return typographic(f"{difference['mean']:+.3f}{bounds(difference)}")


def bounds(score: Mapping[str, Any]) -> str:
    """An interval in brackets; nothing where there is none, as of one person."""
    if score["ci95"] is None:
        return ""
    low, high = score["ci95"]
    return f" [{low:.3f}, {high:.3f}]"


def device_clause(results: Mapping[str, Any]) -> str:
    """The machine of an evaluation, as a clause of a sentence."""
    device = results.get("versions", {}).get("device")
    return f" on {device}" if device else ""


def ratio_cell(ratio: float | None) -> str:
    """A factor, or nothing where there is none."""
    return "" if ratio is None else f"{three_digits(ratio)}×"


def three_digits(number: float) -> str:
    """A number of seconds or a factor with three significant digits and without an exponent."""
    decimals = max(0, 2 - math.floor(math.log10(number))) if number > 0 else 0
    return f"{number:.{decimals}f}"


def typographic(text: str) -> str:
    """With minus signs for hyphens, at which lines would break."""
    return text.replace("-", "−")
