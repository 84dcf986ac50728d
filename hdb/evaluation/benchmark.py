"""Costs of each piece of the way from one photo to pictures, and what is saved by running people together."""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hdb.diffusion.base import AUTOCAST_DTYPES, DTYPES
from hdb.diffusion.graphs import Graphs
from hdb.evaluation.cost import Cost, device_name, measure_cost, paired_ratios
from hdb.evaluation.steps import STEP_HEADER, StepCost, StepTable, step_ratios, step_row
from hdb.evaluation.workloads import Workloads
from hdb.files import write_json


def arithmetic_dtype(precision: str, dtype: str) -> torch.dtype:
    """The type that most of the arithmetic is done in."""
    return AUTOCAST_DTYPES.get(precision, DTYPES[dtype])


def describe_machine(work: Workloads, *, dtype: torch.dtype, ceiling: float) -> dict[str, str]:
    """Facts that costs depend on beside the code.

    Args:
        ceiling: operations per second of a plain matrix product.
    """
    options = work.options
    return {
        "device": device_name(work.device),
        "torch": torch.__version__,
        "base": work.diffusion.name,
        "dtype": options.dtype,
        "precision": options.precision,
        "memory": options.memory,
        "ceiling": f"{ceiling / 1e12:.4g} TFLOP/s, matrix product in {str(dtype).removeprefix('torch.')}",
    }


def measure_costs(work: Workloads, *, num_repeats: int, ceiling: float) -> dict[str, Cost]:
    """Measures each piece and prints a line for it."""
    options, side = work.options, work.diffusion.resolution
    steps, draws = options.finetuning.num_steps, options.finetuning.batch_size
    pieces = {
        "theta from one photo": (work.prediction, 1),
        f"{steps} finetuning steps of {draws} draws, {side} px": (work.finetuning, 1),
        "one photo to a saved file": (work.photo_to_file, 1),
        f"a pretraining step on {options.batch_size} people": (work.pretraining, options.num_steps),
        f"{options.num_pictures} pictures, {options.sampling.num_inference_steps} steps": (work.pictures, 1),
    }
    print(f"\n{'':44}{'seconds':>10}{'peak GB':>10}{'TFLOP':>10}{'TFLOP/s':>10}{'of ceiling':>12}")
    measured: dict[str, Cost] = {}
    for name, (piece, num_steps) in pieces.items():
        work.diffusion.graphs = Graphs(options.cuda_graph)  # of this piece alone
        measured[name] = measure_cost(
            piece, device=work.device, num_steps=num_steps, num_repeats=num_repeats, eagerly=work.eagerly()
        )
        print(cost_row(name, measured[name], ceiling=ceiling), flush=True)
    return measured


def cost_row(name: str, measured: Cost, *, ceiling: float) -> str:
    """One line of the table."""
    numbers = (measured.seconds, measured.peak_bytes / 1e9, measured.operations / 1e12, measured.rate / 1e12)
    return f"{name:44}" + "".join(f"{number:10.4g}" for number in numbers) + f"{measured.rate / ceiling:12.1%}"


def measure_steps(work: Workloads, *, num_steps: int, path: Path) -> tuple[dict[str, StepCost], dict[str, float]]:
    """Measures a step of ours and of other methods; prints and writes each row when it is measured.

    Args:
        path: Of a JSON file.

    Returns:
        The costs by row, and the ratios that follow from them.
    """
    print(STEP_HEADER)
    measured: dict[str, StepCost] = {}
    written: dict[str, Any] = {}
    for name, cost in StepTable(work, num_steps=num_steps).rows():
        print(step_row(name, cost), flush=True)
        if isinstance(cost, StepCost):
            measured[name] = cost
        written[name] = asdict(cost) if isinstance(cost, StepCost) else {"error": cost}
        write_json(path, written)
    ratios = step_ratios(measured)
    for name, ratio in ratios.items():
        print(f"{name:56}{ratio:10.3g}")
    return measured, ratios


def measure_ratios(work: Workloads, *, num_residuals: int, num_people: int, num_pairs: int) -> dict[str, list[float]]:
    """Seconds of one way over those of another, pair by pair; a line is printed for each comparison."""
    comparisons: dict[str, tuple[Callable[[], float], Callable[[], float], str]] = {
        f"a step with {num_residuals} residuals / with one shared": (
            lambda: work.fitting(num_people=num_residuals),
            lambda: work.fitting(num_people=1, num_draws=num_residuals),
            "<= 1.25",
        ),
        f"{num_people} people one by one / together": (
            lambda: sum(work.fitting(num_people=1) for _ in range(num_people)),
            lambda: work.fitting(num_people=num_people),
            ">= 2",
        ),
    }
    work.diffusion.graphs = Graphs(work.options.cuda_graph)
    print(f"\n{'ratio of seconds':44}{'median':>10}{'lowest':>10}{'highest':>10}{'target':>10}")
    measured: dict[str, list[float]] = {}
    for name, (first, second, target) in comparisons.items():
        values = paired_ratios(first, second, num_pairs=num_pairs)
        numbers = (statistics.median(values), min(values), max(values))
        print(f"{name:44}" + "".join(f"{number:10.2f}" for number in numbers) + f"{target:>10}", flush=True)
        measured[name] = values
    return measured
