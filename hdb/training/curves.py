"""Loss curves: one file per training, and a sheet that shows several."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from hdb.files import write_text

CURVE_FILE = "curve.json"
COLUMNS = 2
PANEL_SIZE = 4.8, 2.6  # inches of 100 px

Curve = Sequence[Sequence[int | float]]  # [[step, loss], ...]


def write_curve(folder: str | Path, points: Curve) -> None:
    """Writes curve.json, the points of `hdb.training.callbacks.LossCurve`."""
    write_text(Path(folder) / CURVE_FILE, json.dumps(points) + "\n")


def read_curve(folder: str | Path) -> Curve:
    """Reads the curve.json of a training's folder."""
    return json.loads((Path(folder) / CURVE_FILE).read_text())


def curves_sheet(curves: Mapping[str, Curve]) -> Image.Image:
    """One panel per training, with its loss over the steps and the running mean.

    Args:
        curves: name -> [[step, loss], ...].

    Raises:
        ValueError: No curve, or one without points.
    """
    if not curves or not all(curves.values()):
        empty = ", ".join(name for name, points in curves.items() if not points) or "no training at all"
        raise ValueError(f"{empty} has no points of loss, expected at least one each")
    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // COLUMNS)
    width, height = PANEL_SIZE
    figure = Figure(figsize=(width * columns, height * rows), dpi=100)
    panels = figure.subfigures(rows, columns, squeeze=False).flat
    for panel, (name, points) in zip(panels, curves.items(), strict=False):  # the last panel may stay empty
        steps, losses = zip(*points, strict=True)
        axes = panel.add_axes((0.13, 0.11, 0.84, 0.76))
        axes.plot(steps, losses, color="lightsteelblue", linewidth=1)
        axes.plot(steps, running_mean(losses), color="steelblue", linewidth=2)
        axes.set_title(name, loc="left")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content).convert("RGB")


def running_mean(numbers: Sequence[float]) -> list[float]:
    """Means over a window of a tenth of the numbers, which is narrower at both ends."""
    radius = len(numbers) // 20
    windows = [numbers[max(0, index - radius) : index + radius + 1] for index in range(len(numbers))]
    return [sum(window) / len(window) for window in windows]
