"""What the stages cost on this machine: python -m experiments.benchmark base=sd15-config [memory=low]

Time, memory and arithmetic of each piece of the way from one photo to pictures, beside the rate of a plain matrix
product; and what it saves to run many people together. Weights may be random: nothing here depends on their values.

Targets on one H100, Stable Diffusion 1.5 resident: photo to file within 3 s; at most 80 GB, 16 GB with memory=low.
"""

import statistics
from dataclasses import asdict
from pathlib import Path

import torch

from experiments.cli import run
from experiments.config import Benchmark, load
from experiments.cost import Cost, cost, device_name, matmul_ceiling, paired_ratios
from experiments.networks import DTYPES, device_of
from experiments.workloads import Workloads
from hdb.files import write_json

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def main(argv: list[str]) -> None:
    config = load(Benchmark, argv)
    if config.dtype not in DTYPES:
        raise ValueError(f"dtype is {config.dtype!r}, expected one of {', '.join(DTYPES)}")
    device = device_of(config.accelerator)
    torch.manual_seed(config.seed)
    work = Workloads(config, device=device)
    dtype = MIXED.get(config.precision, DTYPES[config.dtype])  # what most of the arithmetic is done in
    ceiling = matmul_ceiling(device, dtype)
    machine = {
        "device": device_name(device),
        "torch": torch.__version__,
        "base": work.diffusion.name,
        "dtype": config.dtype,
        "precision": config.precision,
        "memory": config.memory,
        "ceiling": f"{ceiling / 1e12:.4g} TFLOP/s, matrix product in {str(dtype).removeprefix('torch.')}",
    }
    for name, fact in machine.items():
        print(f"{name:10} {fact}")

    steps, draws, side = config.finetuning.num_steps, config.finetuning.batch_size, work.diffusion.resolution
    pieces = {
        "theta from one photo": (work.prediction, 1),
        f"{steps} finetuning steps of {draws} draws, {side} px": (work.finetuning, 1),
        "one photo to a saved file": (work.photo_to_file, 1),
        f"a pretraining step on {config.batch_size} people": (work.pretraining, config.num_steps),
        f"{config.num_pictures} pictures, {config.sampling.num_inference_steps} steps": (work.pictures, 1),
    }
    print(f"\n{'':44}{'seconds':>10}{'peak GB':>10}{'TFLOP':>10}{'TFLOP/s':>10}{'of ceiling':>12}")
    costs: dict[str, Cost] = {}
    for name, (piece, num_steps) in pieces.items():
        costs[name] = cost(piece, device=device, num_steps=num_steps, num_repeats=config.num_repeats)
        print(row(name, costs[name], ceiling=ceiling), flush=True)

    num, many = config.num_residuals, config.num_people
    comparisons = {
        f"a step with {num} residuals / with one shared": (
            lambda: work.fitting(num_people=num),
            lambda: work.fitting(num_people=1, num_draws=num),
            "<= 1.25",
        ),
        f"{many} people one by one / together": (
            lambda: sum(work.fitting(num_people=1) for _ in range(many)),
            lambda: work.fitting(num_people=many),
            ">= 2",
        ),
    }
    print(f"\n{'ratio of seconds':44}{'median':>10}{'lowest':>10}{'highest':>10}{'target':>10}")
    ratios: dict[str, list[float]] = {}
    for name, (first, second, target) in comparisons.items():
        ratios[name] = paired_ratios(first, second, num_pairs=config.num_pairs)
        low, high = min(ratios[name]), max(ratios[name])
        print(f"{name:44}{statistics.median(ratios[name]):10.2f}{low:10.2f}{high:10.2f}{target:>10}", flush=True)

    folder = Path(config.output)
    measured = {name: asdict(of) | {"rate": of.rate, "of_ceiling": of.rate / ceiling} for name, of in costs.items()}
    write_json(folder / "results.json", machine | {"matmul_rate": ceiling, "costs": measured, "ratios": ratios})
    peak = "on this GPU" if device.type == "cuda" else "of the process so far"
    print(f"\n{folder / 'results.json'}; seconds are medians of {config.num_repeats} runs, peaks {peak}")


def row(name: str, measured: Cost, *, ceiling: float) -> str:
    """One line of the table."""
    numbers = measured.seconds, measured.peak_bytes / 1e9, measured.operations / 1e12, measured.rate / 1e12
    return f"{name:44}" + "".join(f"{number:10.4g}" for number in numbers) + f"{measured.rate / ceiling:12.1%}"


if __name__ == "__main__":
    run(main)
