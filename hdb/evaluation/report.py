"""What an evaluation leaves behind: grid, plot, page, and at the end results.json, which says that all is there."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import hdb
from hdb.diffusion.sheet import save_image
from hdb.evaluation.cost import device_name
from hdb.evaluation.evaluate import Outcome
from hdb.evaluation.page import as_jpeg, page
from hdb.evaluation.plot import Curves, plot_trade_off
from hdb.evaluation.sheet import overview
from hdb.files import write_files, write_json, write_text
from hdb.methods.table import OURS

LIBRARIES = ("torch", "diffusers", "transformers", "lightning", "timm", "facenet-pytorch")


def versions(device: torch.device) -> dict[str, str]:
    """What the numbers depend on beside the protocol."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"hdb": hdb.__version__, "python": platform.python_version(), **libraries, "device": device_name(device)}


def write_report(folder: Path, outcome: Outcome, *, about: Mapping[str, Any], curves: Curves) -> list[Path]:
    """Writes results.json, report.html, tradeoff.png, grid.png and people.jpg.

    Args:
        about: further facts of the results, by name; those of `protocol` are added to it.
        curves: what searches found, as `plot_trade_off` takes it.
    """
    results = outcome.results
    for name, facts in about.items():
        results[name] = results.get(name, {}) | facts
    plot, grid = plot_trade_off(results, curves), outcome.grid
    names = ("results.json", "report.html", "tradeoff.png", "grid.png", "people.jpg")
    last, html, png, sheet, people = (folder / name for name in names)
    save_image(grid, sheet)
    write_files({png: plot, people: as_jpeg(overview(outcome.pictures, method=OURS), quality=95)})
    write_text(html, page(results, outcome.pictures, plot=plot, grid=grid))
    write_json(last, results)
    return [last, html, png, sheet, people]
