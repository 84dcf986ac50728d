"""Faults survived: python tests/soak.py [kills=50] [steps=10000] [commands=prepare,preoptimize,...] [seed=0]

Every command runs to its end once, undisturbed. Then again, killed (SIGKILL) at random moments: after each the files
that lie there must be whole, none that was there may be gone or changed, and the next call goes on, until the end is
that of the undisturbed run. Then a full disk, a read-only one, two runs at once, a clock set back a year, and many
steps of a training, whose memory must not grow.

Processes are forked from this one, which has imported everything and computes nothing.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from small import command_arguments, write_inputs
from tqdm import tqdm

from experiments import base, evaluate, personalize, preoptimize, prepare, pretrain
from experiments.cli import execute
from hdb.faces.crop import FaceCropper
from hdb.faces.picture import center_square, open_picture
from hdb.training.pretrain import HyperNetPretraining

COMMANDS = {of.__name__.rpartition(".")[2]: of for of in (prepare, preoptimize, pretrain, personalize, evaluate, base)}
LONGER = {
    "preoptimize": ["num_steps=4", "checkpoint_every=1"],
    "pretrain": [
        "schedule.max_steps=8",
        "schedule.val_every=4",
        "schedule.checkpoint_every=1",
        "faces.batch_size=2",
        "warmup_steps=0",
    ],
    "prepare": ["num_val_identities=1", "num_test_identities=1"],
    "base": ["resolution=64", "accelerator=cpu", "overwrite=true"],
}
RESULTS = ("metrics.json", "results.json")  # which a run writes last
YEAR = 365 * 86400  # s


class Run:
    """A command in a process of its own, whose words but for the output are always the same."""

    def __init__(self, room: Path, command: str) -> None:
        self.room, self.command = room, command
        self.log = room / f"{command}.log"

    def place(self, name: str) -> Path:
        suffix = ".safetensors" if self.command == "personalize" else ""
        return self.room / "runs" / self.command / f"{name}{suffix}"

    def given(self, place: Path) -> list[str]:
        more = [f"root={self.room}/world", f"weights={place}/weights"] if self.command == "base" else []
        return [*command_arguments(self.room)[self.command], *LONGER.get(self.command, []), *more, f"output={place}"]

    def start(self, place: Path, *more: str, first: Callable[[], None] = lambda: None) -> int:
        """The number of a process that runs the command.

        Args:
            first: what the process does before.
        """
        child = os.fork()
        if child:
            return child
        with self.log.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        exit_code = 99
        try:
            unshared(tqdm, threading.RLock())
            FaceCropper.read = uncropped
            first()
            exit_code = execute(COMMANDS[self.command].main, [*self.given(place), *more])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

    def finish(self, place: Path, *more: str, first: Callable[[], None] = lambda: None) -> int:
        """Runs it to its end; the exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(place, *more, first=first), 0)[1])

    def said(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def result(self, place: Path) -> Any:
        """What of a finished run must be the same each time."""
        if self.command == "pretrain":
            state = torch.load(place / "last.ckpt", weights_only=True)["state_dict"]
            scores = json.loads((place / "metrics.json").read_text())
            return {**{name: tensor.tolist() for name, tensor in state.items()}, **scores, "seconds": 0}
        if self.command == "personalize":
            return load_file(place)["theta"].tolist()
        if self.command == "evaluate":
            files = {path.relative_to(place): path.read_bytes() for path in visible(place / "images")}
            scores = json.loads((place / "results.json").read_text())["methods"]
            return files, without_costs(scores)
        kinds = (".tar", ".safetensors")
        return {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.suffix in kinds}


def unshared(bars: type[tqdm], lock: threading.RLock) -> None:
    """Gives bars, and all kinds of them, this lock for the one that forked processes share: a killed one keeps that."""
    bars.set_lock(lock)
    for kind in bars.__subclasses__():  # each may have taken its own
        unshared(kind, lock)


def uncropped(self: FaceCropper, picture: Any, *, resolution: int, **options: Any) -> torch.Tensor:
    """Stands in for the search for a face, of which there is none in noise."""
    return center_square(open_picture(picture), resolution=resolution)


def without_costs(scores: Any) -> Any:
    """Scores, at any depth, but for seconds."""
    if not isinstance(scores, dict):
        return scores
    return {name: without_costs(of) for name, of in scores.items() if name not in ("seconds", "seconds_alone")}


def visible(place: Path) -> list[Path]:
    """Files of a run that have their names; what is written has a hidden one until it is whole."""
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(place.parent).parts)]


def refuse_torn(place: Path) -> None:
    """Raises if a file is not whole."""
    for path in visible(place):
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(content)
        elif path.suffix == ".png":
            Image.open(io.BytesIO(content)).load()
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                [tar.extractfile(member).read() for member in tar]
        elif not content:
            raise ValueError(f"{path} is empty")


def kept(place: Path) -> dict[Path, str]:
    """Digests of what is never written a second time: shards, thetas, subjects, pictures."""
    parts = ("thetas-", "train-", "val-", "test-")
    files = [path for path in visible(place) if path.name.startswith(parts) or {"subjects", "images"} & {*path.parts}]
    return {path: sha256(path.read_bytes()).hexdigest() for path in files if path.suffix != ".json"}


def step_of(place: Path) -> int:
    """How far a training is saved."""
    steps = [torch.load(path, weights_only=True)["global_step"] for path in visible(place) if path.name == "last.ckpt"]
    return max(steps, default=0)


def killed(run: Run, *, kills: int, draw: random.Random) -> int:
    """Kills a command so many times, each time followed by the next start; how many saved things were lost."""
    started = time.monotonic()
    if left := run.finish(run.place("whole")):
        raise SystemExit(f"{run.command} left with {left} undisturbed: see {run.log}")
    longest, expected = time.monotonic() - started, run.result(run.place("whole"))
    done = lost = number = 0
    while done < kills:
        number += 1
        place, ended = run.place(f"killed-{number}"), False
        while not ended and done < kills:
            before, step = kept(place), step_of(place)
            child = run.start(place)
            time.sleep(draw.uniform(0, longest))
            ended = os.waitpid(child, os.WNOHANG)[0] != 0
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done += 1
                ended = any((place / name).is_file() for name in RESULTS)  # on its way out: it would begin anew
            refuse_torn(place)
            after = kept(place)
            lost += sum(after.get(path) != digest for path, digest in before.items()) + (step_of(place) < step)
        if not ended and (left := run.finish(place)):
            raise SystemExit(f"{run.command} left with {left} after a kill: see {run.log}")
        lost += run.result(place) != expected
    print(f"{run.command}: killed {done} times in {number} runs, {lost} lost", flush=True)
    return lost


@contextmanager
def mounted(folder: Path, options: str):
    """A file system of its own in memory, where that is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    allowed = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def disks(room: Path) -> None:
    """A disk that is full, and one that is read only: a sentence, and nothing torn."""
    for name, options in (("full", "size=16k"), ("read-only", "ro")):
        with mounted(room / name, options) as allowed:
            if not allowed:
                print(f"{name} disk: not tried, mounting is not allowed")
                continue
            for command in ("preoptimize", "pretrain", "personalize"):
                run = Run(room, command)
                place = room / name / run.place("run").name
                left, said = run.finish(place), run.said()
                errors = [line for line in said if line.startswith("error: ")]
                assert left == 2 and errors, f"{command} on a {name} disk left with {left}: see {run.log}"
                refuse_torn(place)
                print(f"{command}, {name} disk: {errors[-1][:150]}", flush=True)


def two_at_once(room: Path) -> None:
    """Of two runs in one folder one gets a sentence, and the other ends as if alone."""
    run = Run(room, "preoptimize")
    place = run.place("twice")
    children = [run.start(place) for _ in range(2)]
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    one_after_the_other = codes == [0, 0] and run.place("twice.1").exists()
    assert codes == [0, 2] or one_after_the_other, codes
    assert run.result(place) == run.result(run.place("whole"))
    print("two runs at once: one has the folder", flush=True)


def set_back(room: Path) -> None:
    """A run that was begun in a year's time goes on."""
    run, real = Run(room, "pretrain"), time.time
    place = run.place("later")

    def later() -> None:
        time.time = lambda: real() + YEAR

    child = run.start(place, first=later)
    while not (place / "last.ckpt").is_file():
        assert os.waitpid(child, os.WNOHANG)[0] == 0, f"no checkpoint: see {run.log}"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in visible(place):
        os.utime(path, (real() + YEAR,) * 2)
    assert run.finish(place) == 0
    assert run.result(place) == run.result(run.place("whole"))
    print("clock set back a year: the run goes on", flush=True)


def memory(room: Path, *, steps: int) -> float:
    """The memory after all steps over that after a tenth of them."""
    run, record, real = Run(room, "pretrain"), room / "memory.json", HyperNetPretraining.training_step
    sizes: dict[int, int] = {}

    def measured(stage: HyperNetPretraining, *given: Any) -> torch.Tensor:
        if stage.global_step in (steps // 10, steps - 1):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes[stage.global_step] = pages * os.sysconf("SC_PAGE_SIZE")
            record.write_text(json.dumps(sizes))
        return real(stage, *given)

    def first() -> None:
        HyperNetPretraining.training_step = measured

    rare = [f"schedule.val_every={steps}", f"schedule.checkpoint_every={steps // 5 or 1}"]
    assert run.finish(run.place("long"), f"schedule.max_steps={steps}", *rare, first=first) == 0, f"see {run.log}"
    early, late = json.loads(record.read_text()).values()
    print(f"memory: {early / 2**20:.0f} MB after {steps // 10} steps, {late / 2**20:.0f} MB after {steps}", flush=True)
    return late / early


def main(kills: int = 50, steps: int = 10_000, commands: str = ",".join(COMMANDS), seed: int = 0) -> None:
    os.environ |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    draw, chosen = random.Random(seed), commands.split(",")
    with tempfile.TemporaryDirectory() as folder:
        room = write_inputs(Path(folder).resolve())
        os.chdir(room)
        shares = [kills // len(chosen) + (number < kills % len(chosen)) for number in range(len(chosen))]
        runs = zip(chosen, shares, strict=True)
        lost = sum(killed(Run(room, name), kills=share, draw=draw) for name, share in runs)
        disks(room)
        if "preoptimize" in chosen:
            two_at_once(room)
        if "pretrain" in chosen:
            set_back(room)
        grown = memory(room, steps=steps) if steps else 1.0
    print(f"{kills} kills, {lost} lost; memory {grown - 1:+.1%}")
    sys.exit(bool(lost) or grown > 1.05)


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    main(**{name: value if name == "commands" else int(value) for name, value in given.items()})
