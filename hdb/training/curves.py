"""The loss curves of trainings: one file each, and the sheet that shows all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hdb.files import write_text

CURVE_FILE = "curve.json"  # beside done.json or metrics.json
COLUMNS, WIDTH, HEIGHT, MARGIN = 2, 480, 260, 30  # of a panel, in px

Curve = Sequence[Sequence[int | float]]  # [[step, loss], ...]


def write_curve(folder: str | Path, points: Curve) -> None:
    write_text(Path(folder) / CURVE_FILE, json.dumps(points) + "\n")


def read_curve(folder: str | Path) -> Curve:
    return json.loads((Path(folder) / CURVE_FILE).read_text())


def curves_sheet(curves: Mapping[str, Curve]) -> Image.Image:
    """One panel per training: its loss over its steps, each axis as long as its numbers, and their running mean.

    Args:
        curves: name -> [[step, loss], ...].

    Raises:
        ValueError: no curve, or one without points.
    """
    if not curves or not all(curves.values()):
        empty = ", ".join(name for name, points in curves.items() if not points) or "no training at all"
        raise ValueError(f"{empty} has no points of loss, expected at least one each")
    rows = -(-len(curves) // COLUMNS)
    sheet = Image.new("RGB", (WIDTH * min(COLUMNS, len(curves)), HEIGHT * rows), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (name, points) in enumerate(curves.items()):
        left, top = number % COLUMNS * WIDTH + 2 * MARGIN, number // COLUMNS * HEIGHT + MARGIN
        right, bottom = left + WIDTH - 3 * MARGIN, top + HEIGHT - 2 * MARGIN
        steps, losses = zip(*points, strict=True)
        first, last, low, high = min(steps), max(steps), min(losses), max(losses)
        draw.rectangle((left, top, right, bottom), outline="lightgray")
        x = [left + (step - first) / max(last - first, 1) * (right - left) for step in steps]
        for heights, color, width in ((losses, "lightsteelblue", 1), (running_mean(losses), "steelblue", 3)):
            y = [bottom - (loss - low) / ((high - low) or 1) * (bottom - top) for loss in heights]
            draw.line(list(zip(x, y, strict=True)), fill=color, width=width)
        draw.text((left, top - 4), name, fill="black", font=font, anchor="ls")
        draw.text((left - 4, top), f"{high:.3g}", fill="gray", font=font, anchor="rt")
        draw.text((left - 4, bottom), f"{low:.3g}", fill="gray", font=font, anchor="rs")
        draw.text((left, bottom + 4), f"{first:,}", fill="gray", font=font, anchor="lt")
        draw.text((right, bottom + 4), f"{last:,} steps", fill="gray", font=font, anchor="rt")
    return sheet


def running_mean(numbers: Sequence[float]) -> list[float]:
    """Of a tenth of the numbers around each, fewer at the ends."""
    reach = len(numbers) // 20
    around = (numbers[max(0, k - reach) : k + reach + 1] for k in range(len(numbers)))
    return [sum(part) / len(part) for part in around]
