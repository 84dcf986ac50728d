"""What the stages cost on this machine: python -m experiments.benchmark base=sd15-config [memory=low]

Time, memory and arithmetic of each piece of the way from one photo to pictures, beside the rate of a plain matrix
product; and what it saves to run many people together. Weights may be random: nothing here depends on their values.

Targets on one H100, Stable Diffusion 1.5 resident: photo to file within 3 s; at most 80 GB, 16 GB with memory=low.
"""

import time

from experiments.cli import run
from experiments.config import Benchmark, load


def main(argv: list[str]) -> None:
    benchmark(load(Benchmark, argv))


def benchmark(config: Benchmark) -> None:
    """Measures, prints and writes results.json."""
    from dataclasses import asdict

    import torch

    from experiments.outputs import find_inputs
    from experiments.runs import claim_run_folder
    from hdb.evaluation.benchmark import (
        arithmetic_dtype,
        describe_machine,
        measure_costs,
        measure_ratios,
        measure_steps,
    )
    from hdb.evaluation.cost import matmul_ceiling
    from hdb.evaluation.workloads import Workloads
    from hdb.files import write_json
    from hdb.runs.folder import check_folder
    from hdb.runs.outputs import resolve_output
    from hdb.training.device import select_device

    device = select_device(config.accelerator)
    output = resolve_output(config.output)
    check_folder(output, find_inputs(config))
    with claim_run_folder(output, config, result="results.json", depends_on={"time": time.ctime()}):
        torch.manual_seed(config.seed)
        work = Workloads(config, folder=output, device=device)
        dtype = arithmetic_dtype(config.precision, config.dtype)
        ceiling = matmul_ceiling(device, dtype)
        facts = describe_machine(work, dtype=dtype, ceiling=ceiling)
        for name, fact in facts.items():
            print(f"{name:10} {fact}")
        measured = measure_costs(work, num_repeats=config.num_repeats, ceiling=ceiling)
        compared = measure_ratios(
            work,
            num_residuals=config.num_residuals,
            num_people=config.num_people,
            num_pairs=config.num_pairs,
        )
        rows = {
            name: {**asdict(cost), "rate": cost.rate, "of_ceiling": cost.rate / ceiling}
            for name, cost in measured.items()
        }
        results = {**facts, "matmul_rate": ceiling, "costs": rows, "ratios": compared}
        if config.num_method_steps:  # at the end: it changes how the base works
            steps, ratios = measure_steps(work, num_steps=config.num_method_steps, path=output / "steps.json")
            results["steps"] = {name: asdict(cost) for name, cost in steps.items()}
            results["step_ratios"] = ratios
        write_json(output / "results.json", results)
    peak = "on this GPU" if device.type == "cuda" else "of the process so far"
    print(f"\n{output / 'results.json'}; seconds are medians of {config.num_repeats} runs, peaks {peak}")


if __name__ == "__main__":
    run(main)
