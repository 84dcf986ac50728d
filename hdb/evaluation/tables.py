"""Results as tables for people to read: the scores, what differs from ours, shares of pictures, the paper's three."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdb.evaluation.summary import NOT_APART, SCORES
from hdb.methods.table import OURS, SCALE

# As the paper calls them; a method that is not here goes by its own name.
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
# Of README: the paper's own method, what it is compared with, and its two halves.
SUMMARY = (OURS, "dreambooth", "textual_inversion", "no_hyper", "only_hyper")


@dataclass(frozen=True)
class Table:
    """Rows of words under the names of their columns, and a sentence below that says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def text(self) -> str:
        """For a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([self.title, *(line.rstrip() for line in padded), self.note])

    def markdown(self) -> str:
        """For README: our own row in bold letters."""
        rows = [[f"**{row[0]}**", *row[1:]] if row[0] == TITLES[OURS] else row for row in self.rows]
        lines = [self.columns, ["---"] * len(self.columns), *rows]
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", self.note])


def all_tables(results: Mapping[str, Any]) -> list[Table]:
    """Everything, then those of the paper's tables whose methods were all evaluated."""
    return [score_table(results), difference_table(results), share_table(results), *paper_tables(results)]


def score_table(
    results: Mapping[str, Any], names: Iterable[str] | None = None, *, title: str = "Scores and costs"
) -> Table:
    """Means with intervals and places on the scale, seconds and bytes of each method; None is all of them."""
    methods, ends, protocol = results["methods"], results["scale"], results["protocol"]
    columns = ["method", *SCORES, "seconds alone", "seconds in a batch", "bytes"]
    rows = []
    for name in methods if names is None else names:
        of = methods[name]
        made = [digits(of["seconds_alone"]), digits(of["seconds"]), f"{of['bytes']:.0f}"] if of["bytes"] else [""] * 3
        rows.append([title_of(name, protocol), *(score_cell(of[score]) for score in SCORES), *made])
    note = f"{size(protocol)}; mean [95 % interval over people]"
    if ends:
        told = [difference(ends[score]) if ends[score]["apart"] else NOT_APART for score in SCORES]
        rows.append(["oracle minus unpersonalized", *told, "", "", ""])
        note += "; in brackets normalized to 0 = unpersonalized, 1 = oracle, where the judge tells these two apart"
    batch = f"{protocol['subjects_per_batch']} people, one where a method changes the base"
    seconds = f"Seconds of one person{device_of_results(results)}, alone and as one of a batch of {batch}"
    return Table(title, columns, rows, f"{note}. {seconds}.")


def summary_table(results: Mapping[str, Any]) -> Table:
    """Means and costs of the paper's methods alone: five rows for README."""
    protocol = results["protocol"]
    rows = []
    for name in SUMMARY:
        if name not in results["methods"]:
            continue
        entry = results["methods"][name]
        scores = [minus(f"{entry[score]['mean']:.3f}") for score in SCORES]
        rows.append([title_of(name, protocol), *scores, digits(entry["seconds_alone"]), f"{entry['bytes'] / 1e3:,.0f}"])
    columns = ["method", *SCORES, "seconds", "KB"]
    note = f"{size(protocol)}; seconds for one person{device_of_results(results)}; KB of the person's file."
    return Table("Summary", columns, rows, note)


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
        cells = ["" if normalized is None else minus(f"{normalized:.2f}")]
        cells.append(f"{entry['clip_t']['mean'] / base['clip_t']['mean']:.3f}")
        cells += [f"{share['mean'] / oracle['rank_1'][part]['mean']:.2f}" for part, share in entry["rank_1"].items()]
        rows.append([title_of(name, results["protocol"]), *cells])
    note = "face_rec normalized: 0 = unpersonalized, 1 = oracle. Ratios of means."
    return Table("Shares of what can be reached", columns, rows, f"{size(results['protocol'])}; {note}")


def difference_table(results: Mapping[str, Any], names: Iterable[str] | None = None, *, title: str = "Ours") -> Table:
    """Ours minus each other method, person by person; what the other costs over ours."""
    columns, methods = ["ours minus", *SCORES, "its seconds / ours", "its bytes / ours"], results["methods"]
    paired = results["paired"] if names is None else {name: results["paired"][name] for name in names if name != OURS}
    rows = []
    for name, of in paired.items():
        over = methods[name]["over_ours"]
        costs = [ratio(over[of_cost]) for of_cost in ("seconds_alone", "bytes")]
        rows.append([title_of(name, results["protocol"]), *(difference(of[score]) for score in SCORES), *costs])
    note = "differences of the same people [95 % interval]; seconds of one person alone"
    return Table(f"{title}: what differs", columns, rows, f"{size(results['protocol'])}; {note}.")


def share_table(results: Mapping[str, Any]) -> Table:
    """What the prompt asked for, and who was recognized among a gallery: shares of pictures."""
    methods, gallery = results["methods"], results["protocol"]["gallery"]
    first = next(iter(methods.values()))
    parts = [(score, part) for score in ("prompted", "rank_1") for part in first.get(score, {})]
    columns = ["method", *(part if score == "prompted" else f"{score} {part}" for score, part in parts)]
    rows = [[title_of(m, results["protocol"]), *(score_cell(of[s][p]) for s, p in parts)] for m, of in methods.items()]
    note = f"shares of pictures that are right; rank_1: the nearest of {gallery} people is their own"
    return Table("Shares of pictures", columns, rows, f"{note}, chance {1 / gallery:.3f}.")


def paper_tables(results: Mapping[str, Any]) -> list[Table]:
    """Tables 1 to 3, each with its paired differences; one that lacks a method is left out."""
    found = []
    for title, names in PAPER.items():
        if set(names) <= results["methods"].keys():
            found += [score_table(results, names, title=title), difference_table(results, names, title=title)]
    return found


def title_of(name: str, protocol: Mapping[str, Any]) -> str:
    """A method's name, with its number of steps where it has one of its own."""
    steps = protocol.get("settings", {}).get(name, {}).get("num_steps")
    return TITLES.get(name, name) + (f", {steps} steps" if steps else "")


def size(protocol: Mapping[str, Any]) -> str:
    people, prompts = len(protocol["identities"]), len(protocol["prompts"])
    return f"{people} unseen people × {prompts} prompts × {protocol['images']} pictures"


def score_cell(score: Mapping[str, Any]) -> str:
    low, high = score["ci95"]
    on_scale = f" ({score['normalized']:+.2f})" if score.get("normalized") is not None else ""
    return minus(f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]{on_scale}")


def device_of_results(results: Mapping[str, Any]) -> str:
    """The machine of an evaluation, as a clause of a sentence."""
    device = results.get("versions", {}).get("device")
    return f" on {device}" if device else ""


def difference(of: Mapping[str, Any]) -> str:
    low, high = of["ci95"]
    return minus(f"{of['mean']:+.3f} [{low:.3f}, {high:.3f}]")


def ratio(over: float | None) -> str:
    """A factor, or nothing where there is none."""
    return "" if over is None else f"{digits(over)}×"


def digits(number: float) -> str:
    """Three digits that count, and no exponent: of seconds and factors, which differ by powers of ten."""
    decimals = max(0, 2 - math.floor(math.log10(number))) if number > 0 else 0
    return f"{number:.{decimals}f}"


def minus(text: str) -> str:
    """With the minus of typography: a hyphen would break lines."""
    return text.replace("-", "−")
