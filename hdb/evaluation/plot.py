"""The trade-off that a single number hides: how much a picture is like the person, against how much like the prompt."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from hdb.evaluation.tables import title_of
from hdb.files import SOFTWARE
from hdb.methods.table import OURS

ACROSS, UP = "clip_t", "face_rec"
Curves = Mapping[str, Sequence[Mapping[str, Any]]]  # method -> the settings that a search tried


def trade_off(results: Mapping[str, Any], curves: Curves) -> bytes:
    """A PNG: a point with both 95 % intervals for each method, and the line of the settings that a search tried of it.

    Args:
        results: of an evaluation.
        curves: found on validation people, so that a line need not go through its method's point.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes, colors = figure.subplots(), colormaps["tab20"].colors
    for color, (name, entry) in zip(colors * len(results["methods"]), results["methods"].items(), strict=False):
        if name in curves:
            tried = [[setting[score]["mean"] for setting in curves[name]] for score in (ACROSS, UP)]
            axes.plot(*tried, linestyle="--", linewidth=1, marker=".", color=color, alpha=0.7)
        axes.errorbar(
            entry[ACROSS]["mean"],
            entry[UP]["mean"],
            xerr=reach(entry[ACROSS]),
            yerr=reach(entry[UP]),
            fmt="D" if name == OURS else "o",
            color=color,
            capsize=2,
            label=title_of(name, results["protocol"]),
        )
    axes.set(xlabel=f"{ACROSS}: like the prompt", ylabel=f"{UP}: like the person")
    axes.grid(alpha=0.3)
    under = "95 % intervals over people" + ("; dashed: settings tried on validation people" if curves else "")
    figure.legend(loc="outside right upper", fontsize="small", title=under, title_fontsize="x-small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": SOFTWARE})
    return content.getvalue()


def reach(score: Mapping[str, Any]) -> list[list[float]]:
    """How far an interval reaches below and above its mean."""
    low, high = score["ci95"]
    return [[score["mean"] - low], [high - score["mean"]]]
