"""The loss curves of trainings: one file each, and the sheet that shows all of them."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from hdb.files import write_text

CURVE_FILE = "curve.json"  # beside done.json or metrics.json
COLUMNS, WIDTH, HEIGHT = 2, 4.8, 2.6  # of a panel, in inches of 100 px

Curve = Sequence[Sequence[int | float]]  # [[step, loss], ...]


def write_curve(folder: str | Path, points: Curve) -> None:
    write_text(Path(folder) / CURVE_FILE, json.dumps(points) + "\n")


def read_curve(folder: str | Path) -> Curve:
    return json.loads((Path(folder) / CURVE_FILE).read_text())


def curves_sheet(curves: Mapping[str, Curve]) -> Image.Image:
    """One panel per training: its loss over its steps, and their running mean.

    Args:
        curves: name -> [[step, loss], ...].

    Raises:
        ValueError: no curve, or one without points.
    """
    if not curves or not all(curves.values()):
        empty = ", ".join(name for name, points in curves.items() if not points) or "no training at all"
        raise ValueError(f"{empty} has no points of loss, expected at least one each")
    columns, rows = min(COLUMNS, len(curves)), -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), dpi=100)
    panels = figure.subfigures(rows, columns, squeeze=False).flat
    for panel, (name, points) in zip(panels, curves.items(), strict=False):  # the last panel may stay empty
        axes, (steps, losses) = panel.add_axes((0.13, 0.11, 0.84, 0.76)), zip(*points, strict=True)
        axes.plot(steps, losses, color="lightsteelblue", linewidth=1)
        axes.plot(steps, running_mean(losses), color="steelblue", linewidth=2)
        axes.set_title(name, loc="left")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content).convert("RGB")


def running_mean(numbers: Sequence[float]) -> list[float]:
    """Of a tenth of the numbers around each, fewer at the ends."""
    reach = len(numbers) // 20
    around = (numbers[max(0, k - reach) : k + reach + 1] for k in range(len(numbers)))
    return [sum(part) / len(part) for part in around]
