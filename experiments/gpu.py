"""What only a GPU can show, in one command of six minutes: python -m experiments.gpu

Under `output`, in a folder named after the time: what each part printed (1-tests.txt, 2-benchmark.txt, ...), written
while it runs, and parts.json.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import run
from experiments.config import Gpu, load

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 1  # exit code
TIMED_OUT = 124  # as timeout(1)
SHELL = "from experiments.shell.command import main; main()"  # what `hdb` calls


def main(argv: list[str]) -> None:
    codes = run_parts(load(Gpu, argv))
    if any(codes.values()):
        sys.exit(FAILED)


def run_parts(config: Gpu) -> dict[str, int]:
    """Runs the parts one after the other. Returns the exit code of each."""
    from importlib.util import find_spec

    from hdb.files import write_json
    from hdb.runs.outputs import resolve_output
    from hdb.training.device import select_device

    device = select_device(config.accelerator)  # says in a sentence that there is no GPU
    output = resolve_output(config.output) / time.strftime("%Y-%m-%d-%H%M%S")  # the parts refuse what others wrote
    output.mkdir(parents=True)
    if find_spec("wandb") is None:
        print("note: the package wandb is not installed, without which no part can train: pip install wandb")
    end = time.monotonic() + 60 * config.minutes
    codes: dict[str, int] = {}
    record: dict[str, dict[str, float | int]] = {}
    for number, (name, command) in enumerate(part_commands(config, output).items(), 1):
        if name not in config.parts:
            continue
        path = output / f"{number}-{name}.txt"
        started = time.monotonic()
        codes[name] = run_part(command, path, seconds=end - started)
        seconds = time.monotonic() - started
        record[name] = {"exit_code": codes[name], "seconds": round(seconds, 1)}
        write_json(output / "parts.json", {"device": str(device), "parts": record})
        outcome = "done" if not codes[name] else "out of time" if codes[name] == TIMED_OUT else "failed"
        print(f"{name:12}{outcome:14}{seconds:8.1f} s  {path}", flush=True)
        if codes[name]:
            print(last_line(path), flush=True)
    return codes


def part_commands(config: Gpu, output: Path) -> dict[str, list[str]]:
    """The command of each part, in the order in which they run."""
    python = [sys.executable, "-m"]
    hdb = [sys.executable, "-c", SHELL]
    accelerator = f"accelerator={config.accelerator}"
    photo, file = output / "face.png", output / "face.safetensors"
    return {
        "tests": [*python, "pytest", "-n", "0", *config.tests],
        "benchmark": [*hdb, "benchmark", accelerator, *config.benchmark, f"output={output / 'benchmark'}"],
        "portrait": [*hdb, "faceworld", f"portrait={photo}", "resolution=64", "identity=1"],
        "personalize": [
            *(*hdb, "personalize", str(photo), accelerator, f"output={file}"),
            *config.personalize,
        ],
        "generate": [
            *(*hdb, "generate", str(file), "a [V] face in the snow", accelerator),
            *(f"output={output / 'pictures'}", *config.generate),
        ],
        "evaluate": [*hdb, "evaluate", accelerator, *config.evaluate, f"output={output / 'eval'}"],
        "pretrain": [*hdb, "pretrain", accelerator, *config.pretrain, f"output={output / 'pretrain'}"],
        "base": [
            *(*python, "experiments.base", accelerator, *config.base),
            *(f"output={output / 'base'}", f"weights={output / 'base' / 'weights'}"),
        ],
    }


def run_part(command: "Sequence[str]", path: Path, *, seconds: float) -> int:
    """Runs a command, with what it prints in a file. Returns its exit code."""
    if seconds <= 0:
        path.write_text("not begun: the time was over\n")
        return TIMED_OUT
    environment = {"WANDB_MODE": "disabled", **os.environ}
    with path.open("w") as file:
        try:
            return subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, env=environment, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return TIMED_OUT


def last_line(path: Path) -> str:
    """What a part printed last."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return f"            {lines[-1]}" if lines else ""


if __name__ == "__main__":
    run(main)
