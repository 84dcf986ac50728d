"""Two gloo processes of one run: what they make is what one makes, and neither waits for a dead one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
import torch
from safetensors.torch import load_file

from experiments import evaluate, preoptimize, pretrain
from experiments.cli import execute
from experiments.config import Pretrain, load
from hdb.training import ranks

ROOT = Path(__file__).parents[1]
PAIR = ["processes.devices=2"]
ONE_STEP = ["schedule.max_steps=1", "warmup_steps=0", "condition_dropout=0.5", "schedule.ema_decay=0.5"]
STILL = [*ONE_STEP, "lr=1e-12", "linear_lr=1e-12"]  # scores of the network as it begins
LONGER = ["schedule.max_steps=12", "schedule.val_every=12", "schedule.checkpoint_every=4", "warmup_steps=0"]
NO_FIRST = [*PAIR, *LONGER, "faces.batch_size=2", "output=no-first"]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return small.write_inputs(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def words(room) -> dict[str, list[str]]:
    return small.command_arguments(room)


def together(room: Path, *plan: tuple[str, list[str]], victim: int | None = None) -> subprocess.Popen:
    """Starts two processes.

    Args:
        victim: the one that is killed on its way.
    """
    path = room / f"plan-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(plan))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "pair.py"), str(path), *([] if victim is None else [str(victim)])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=room, env=environment, **pipes)


def killed(victim: int, room: Path, plan: tuple[str, list[str]], place: Path) -> str:
    """Starts two processes, of which one is killed after the first checkpoint, and checks how the other ends.

    Returns:
        what they said on stderr.
    """
    process = together(room, plan, victim=victim)
    _, errors = process.communicate(timeout=3600)  # until both have closed their end
    minute = 60 * max(1, os.getloadavg()[0] / os.cpu_count())  # s; of a machine that has other work, too, a share
    assert time.monotonic() - float((room / "killed.txt").read_text()) < minute
    assert (process.returncode == -signal.SIGKILL) == (victim == 0) and (place / "last.ckpt").is_file()
    return errors


@pytest.fixture(scope="module")
def first_lost(room, words) -> str:
    """What the second of two processes said when the first was killed in the middle of a run; see no-first."""
    return killed(0, room, ("pretrain", [*words["pretrain"], *NO_FIRST]), room / "no-first")


@pytest.fixture(scope="module")
def done(room, words, first_lost) -> str:
    """What two processes said that ran every command; their output lies in pair-*. They finish that run, too."""
    training = words["pretrain"]
    process = together(
        room,
        ("preoptimize", [*words["preoptimize"], *PAIR, "output=pair-thetas"]),
        ("pretrain", [*training, *PAIR, *ONE_STEP, "faces.batch_size=2", "output=pair-step"]),
        ("pretrain", [*training, *PAIR, *STILL, "faces.batch_size=1", "output=pair-scores"]),
        ("pretrain", [*training, *PAIR, *LONGER, "faces.batch_size=2", "output=pair-longer"]),
        ("pretrain", [*training, *NO_FIRST]),
        ("evaluate", [*words["evaluate"], *PAIR, "output=pair-eval"]),  # the last: after it the first is alone
    )
    said, errors = process.communicate(timeout=3600)
    assert process.returncode == 0, errors
    return said


@pytest.fixture
def alone(room, monkeypatch):
    """Runs a command in this process."""
    monkeypatch.chdir(room)
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def run(command, *given: str) -> None:
        assert execute(command.main, list(given)) == 0

    return run


def test_thetas_of_two_processes_are_those_of_one(done, alone, words, room):
    alone(preoptimize, *words["preoptimize"], "output=one-thetas")
    files = [sorted(path.name for path in (room / folder).iterdir()) for folder in ("one-thetas", "pair-thetas")]
    assert files[0] == files[1]
    for name in (f"thetas-{number:05d}.safetensors" for number in range(4)):
        assert (room / "pair-thetas" / name).read_bytes() == (room / "one-thetas" / name).read_bytes()
    of_both = [json.loads((room / folder / "metrics.json").read_text()) for folder in ("one-thetas", "pair-thetas")]
    assert of_both[0] == of_both[1]


def test_a_step_of_two_processes_is_that_of_one_with_twice_the_batch(done, alone, words, room):
    alone(pretrain, *words["pretrain"], *ONE_STEP, "faces.batch_size=4", "output=one-step")
    states = [torch.load(room / f"{of}-step" / "last.ckpt", weights_only=True)["state_dict"] for of in ("one", "pair")]
    begun = load_file(room / "pair-scores" / "hypernet" / "model.safetensors")
    for name, weights in states[0].items():
        assert torch.allclose(states[1][name], weights, atol=1e-5, rtol=0), name
    moved = [
        name for name in begun if not torch.allclose(begun[name].float(), states[0][f"hypernet.{name}"], atol=1e-4)
    ]
    assert moved


def test_scores_of_two_processes_are_those_of_one(done, alone, words, room):
    alone(pretrain, *words["pretrain"], *STILL, "faces.batch_size=1", "output=one-scores")
    one, pair = (json.loads((room / f"{of}-scores" / "metrics.json").read_text()) for of in ("one", "pair"))
    scores = [name for name in one if name.startswith("val/")]
    assert {"val/face_rec", "val/diffusion_loss", "val/own_minus_other", "val/own_better"} <= set(scores)
    assert [pair[name] for name in scores] == pytest.approx([one[name] for name in scores], abs=1e-6)


def test_an_evaluation_by_two_processes_is_that_of_one(done, alone, words, room):
    alone(evaluate, *words["evaluate"], "output=one-eval")
    one, pair = room / "one-eval", room / "pair-eval"
    names = [sorted(str(path.relative_to(of)) for path in of.rglob("*") if path.is_file()) for of in (one, pair)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.startswith("images/") or name == "manifest.jsonl":
            assert (pair / name).read_bytes() == (one / name).read_bytes(), name
        if name.endswith(".safetensors"):
            assert torch.equal(load_file(pair / name)["theta"], load_file(one / name)["theta"]), name
    of_both = [json.loads((of / "results.json").read_text()) for of in (one, pair)]
    for method, scores in of_both[0]["methods"].items():
        for score in ("face_rec", "dino", "clip_i", "clip_t"):
            assert of_both[1]["methods"][method][score] == scores[score]


def test_the_first_process_alone_speaks_and_writes(done, room):
    assert done.count("pair-longer/last.ckpt: 12 steps") == 1
    names = {path.name for path in (room / "pair-longer").iterdir() if not path.name.startswith(".")}
    expected = {"config.yaml", "splits.json", "metrics.json", "curve.json", "preview.png", "hypernet", "last.ckpt"}
    assert names == expected | {"last.previous.ckpt"}


def test_where_the_second_is_killed_the_first_ends_with_a_sentence(words, room):
    plan = ("pretrain", [*words["pretrain"], *PAIR, *LONGER, "faces.batch_size=2", "output=no-second"])
    assert f"error: {ranks.LOST_PROCESS}" in killed(1, room, plan, room / "no-second")


def test_where_the_first_is_killed_the_second_ends_with_a_sentence_and_the_run_goes_on(first_lost, done, room):
    assert f"error: {ranks.LOST_PROCESS}" in first_lost
    assert "going on with the unfinished run" in done
    ends = [torch.load(room / of / "last.ckpt", weights_only=True)["state_dict"] for of in ("no-first", "pair-longer")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_processes_that_cannot_run_the_command_are_refused():
    with pytest.raises(ValueError, match="strategy is 'ddp_spawn', expected one whose processes run the whole command"):
        load(Pretrain, ["processes.strategy=ddp_spawn", "beta=0"])
