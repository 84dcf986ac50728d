"""Writes what an evaluation leaves behind: sheets, plot, page, and last results.json, which says that all is there."""

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
from hdb.evaluation.sheet import overview_sheet
from hdb.files import write_files, write_json, write_text
from hdb.methods.table import OURS

LIBRARIES = ("torch", "diffusers", "transformers", "lightning", "timm", "facenet-pytorch")


def versions(device: torch.device) -> dict[str, str]:
    """Versions and the device, which the numbers depend on beside the protocol."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"hdb": hdb.__version__, "python": platform.python_version(), **libraries, "device": device_name(device)}


def write_report(folder: Path, outcome: Outcome, *, facts: Mapping[str, Any], curves: Curves) -> list[Path]:
    """Writes results.json, report.html, tradeoff.png, grid.png and people.jpg.

    Args:
        facts: further entries of the results, by name; those of `protocol` are added to it.
        curves: what searches found, as `plot_trade_off` takes it.

    Returns:
        The paths of these files.
    """
    results = outcome.results
    for name, entries in facts.items():
        results[name] = results.get(name, {}) | entries
    plot = plot_trade_off(results, curves)
    grid = outcome.grid
    people = as_jpeg(overview_sheet(outcome.pictures, method=OURS), quality=95)
    save_image(grid, folder / "grid.png")
    write_files({folder / "tradeoff.png": plot, folder / "people.jpg": people})
    write_text(folder / "report.html", page(results, outcome.pictures, plot=plot, grid=grid))
    write_json(folder / "results.json", results)
    return [folder / name for name in ("results.json", "report.html", "tradeoff.png", "grid.png", "people.jpg")]
