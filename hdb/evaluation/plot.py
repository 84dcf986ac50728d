"""Plot of likeness to the person against likeness to the prompt, the trade-off that a single score hides."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from hdb.evaluation.tables import has_one_person, method_title
from hdb.files import SOFTWARE
from hdb.methods.table import OURS

X_METRIC = "clip_t"
Y_METRIC = "face_rec"
Curves = Mapping[str, Sequence[Mapping[str, Any]]]  # method -> the settings that a search tried


def plot_trade_off(results: Mapping[str, Any], curves: Curves) -> bytes:
    """Draws a point with both 95 % intervals for each method, and a line of the settings that a search tried.

    Args:
        results: of an evaluation.
        curves: found on validation people, so that a line need not go through its method's point.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["tab20"].colors * len(results["methods"])
    for color, (name, entry) in zip(colors, results["methods"].items(), strict=False):
        if name in curves:
            tried_x = [setting[X_METRIC]["mean"] for setting in curves[name]]
            tried_y = [setting[Y_METRIC]["mean"] for setting in curves[name]]
            axes.plot(tried_x, tried_y, linestyle="--", linewidth=1, marker=".", color=color, alpha=0.7)
        axes.errorbar(
            entry[X_METRIC]["mean"],
            entry[Y_METRIC]["mean"],
            xerr=error_bar(entry[X_METRIC]),
            yerr=error_bar(entry[Y_METRIC]),
            fmt="D" if name == OURS else "o",
            color=color,
            capsize=2,
            label=method_title(name, results["protocol"]),
        )
    axes.set(xlabel=f"{X_METRIC}: like the prompt", ylabel=f"{Y_METRIC}: like the person")
    axes.grid(alpha=0.3)
    remarks = [] if has_one_person(results["protocol"]) else ["95 % intervals over people"]
    if curves:
        remarks.append("dashed: settings tried on validation people")
    figure.legend(
        loc="outside right upper", fontsize="small", title="; ".join(remarks) or None, title_fontsize="x-small"
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": SOFTWARE})
    return content.getvalue()


def error_bar(score: Mapping[str, Any]) -> list[list[float]] | None:
    """Distances from the mean to both ends of the interval, as matplotlib takes them; None without an interval."""
    if score["ci95"] is None:
        return None
    low, high = score["ci95"]
    return [[score["mean"] - low], [high - score["mean"]]]
