"""Signals end a command with a code of its own, and keep what was reached; a failing terminal ends nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments import evaluate, faceworld, generate, personalize, preoptimize, pretrain
from hdb.diffusion import sampling
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.signals import SIGNALS
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining

ROOT = Path(__file__).parents[1]
FEW_PICTURES = "protocol.num_identities=2 protocol.num_prompts=1 protocol.num_pictures=1"
# (command, words, what is interrupted and at which call, what must be left)
STAGES = {
    "pretrain": (pretrain, "", HyperNetPretraining, "training_step", 3, "outputs/pretrain/last.ckpt"),
    "preoptimize": (preoptimize, "", Preoptimization, "training_step", 2, "outputs/preoptimize/shard-00000.ckpt"),
    "personalize": (
        personalize,
        "reference=me.png output=you.safetensors crop=false",
        SubjectFinetuning,
        "training_step",
        2,
        None,
    ),
    "evaluate": (evaluate, FEW_PICTURES, sampling, "sample", 2, "outputs/eval/subjects"),
    "generate": (generate, "subject=s.safetensors", sampling, "sample", 1, None),
}
CASES = [  # Lightning handles three of these signals itself while it trains, as in the first three commands
    ("pretrain", signal.SIGUSR1),
    ("pretrain", signal.SIGINT),
    ("preoptimize", signal.SIGTERM),
    ("personalize", signal.SIGHUP),
    ("evaluate", signal.SIGUSR2),
    ("generate", signal.SIGTERM),
]


@pytest.fixture
def subject(call, tiny_diffusion) -> None:
    """s.safetensors"""
    layout = Layout.from_models(tiny_diffusion.components, a=4, b=3)
    Subject(layout.initial_theta(), layout, {"base_digest": tiny_diffusion.digest}).save("s.safetensors")


@pytest.fixture
def default_handlers() -> Iterator[None]:
    """Those of a process in the foreground: tests in a shell's background, or under nohup, ignore some signals."""
    handlers = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("stage", "number"), CASES)
def test_a_signal_is_reported_and_what_was_reached_is_kept(
    default_handlers, subject, stage, number, call, tiny_weights, monkeypatch, capsys
):
    command, words, owner, method, at, kept = STAGES[stage]
    original, calls = getattr(owner, method), []

    def killed(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, killed)
    hypernet = [f"hypernet={tiny_weights}/hypernet"] if command in (personalize, evaluate) else []
    assert call(faceworld, "portrait=me.png", "resolution=64", "identity=0") == 0
    assert call(command, *words.split(), *hypernet) == 128 + number
    report = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert report in capsys.readouterr().err
    assert kept is None or Path(kept).exists()
    if kept and kept.endswith(".ckpt"):  # whole steps only
        assert torch.load(kept, weights_only=True)["global_step"] == at
    assert call(command, *words.split(), *hypernet) == 0


def test_signals_that_the_parent_has_us_ignore_stay_ignored(call, subject, monkeypatch):
    def read(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise ValueError("went on")

    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(StableDiffusion, "from_pretrained", read)
        assert call(generate, "subject=s.safetensors", "output=new") == 2
    finally:
        signal.signal(signal.SIGHUP, earlier)


PRINTING = """
import sys
from experiments.cli import run

def main(argv):
    for line in range(20_000):
        print("snow \\u2744 and \\u00fc")
    open("done", "w").close()

run(main)
"""


@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ("cat", {"PYTHONIOENCODING": "ascii"}),
        ("cat", {"PYTHONIOENCODING": "latin-1"}),
        ("cat", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("cat", {"LC_ALL": "xx_YY", "HOME": "/nonexistent", "TMPDIR": "/nonexistent", "TERM": "dumb", "COLUMNS": "0"}),
        ("head -1", {}),
        ("cat > /dev/full", {}),
    ],
)
def test_nothing_that_is_printed_ends_a_command(shell, environment, tmp_path):
    (tmp_path / "printing.py").write_text(PRINTING, encoding="utf-8")
    target = "> /dev/full" if "full" in shell else f"| {shell}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} printing.py {target}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
    )
    assert (tmp_path / "done").exists()
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
