"""Sweeps: the real client and agent against a stand-in of the server; what runs are compared by; who is best."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from wandb_server import KEY, SWEEP, standing_in

from experiments import evaluate
from experiments.runs import VALIDATION_ONLY
from experiments.tracking import log_best_of_sweep
from hdb.files import resolve_shipped
from hdb.hypernet import trained

ROOT = Path(__file__).parents[1]
SHIPPED = yaml.safe_load((ROOT / "configs" / "sweep" / "pretrain.yaml").read_text())
PROTOCOL = ("base.", "seed", "precision", "faces.source", "faces.root", "faces.seed", "faces.splits", "faces.num_val")


def test_no_swept_field_touches_what_runs_are_compared_by():
    assert SHIPPED["metric"] == {"name": trained.SWEEP_METRIC, "goal": "maximize"}
    touching = [field for field in SHIPPED["parameters"] if f"{field}.".startswith((*PROTOCOL, *VALIDATION_ONLY))]
    assert touching == []


def test_bad_runs_are_ended_early_and_everything_lands_in_one_project():
    words = dict(word.split("=", 1) for word in SHIPPED["command"] if "=" in word)
    config = yaml.safe_load((ROOT / "configs" / "faceworld" / "pretrain.yaml").read_text())
    assert SHIPPED["project"] == "hdb"
    assert SHIPPED["early_terminate"]["type"] == "hyperband"
    assert config["schedule"]["max_steps"] // int(words["schedule.val_every"]) > SHIPPED["early_terminate"]["min_iter"]


@pytest.fixture
def agent_room(tiny_words, tmp_path) -> Path:
    """A folder with photos of five people and the shipped sweep, made small: its runs take seconds."""
    for person in range(5):
        noise = np.random.default_rng(person).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{person}.png")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    faces = ["source=flat", "root=photos", "crop=false", "target=same", "num_identities=3", "num_test_identities=0"]
    tiny = [word for word in tiny_words["pretrain"] if not word.startswith(("faces.root", "faces.num_identities"))]
    words = [*tiny, *(f"faces.{word}" for word in faces), "preview.num_identities=2", "gamma=0"]
    words += ["schedule.max_steps=10", "schedule.val_every=5", "schedule.checkpoint_every=10"]
    command = [word if word != "python" else sys.executable for word in SHIPPED["command"]]
    swept = {
        "lr": {"values": [1e-3, 1e-4]},
        "lidb.a": {"values": [4, 3]},
        "hypernet.linear_path": {"values": [True, False]},
    }
    sweep = SHIPPED | {"command": [*command[:-1], *words, command[-1]], "parameters": swept}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return tmp_path


def test_two_runs_of_a_real_agent(agent_room, monkeypatch, capsys):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= dict.fromkeys(("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT", "WANDB__SERVICE_WAIT"), "600")
    environment |= {"HOME": str(agent_room), "PYTHONPATH": str(ROOT), "WANDB_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with standing_in() as server:
        for words in (["sweep", "sweep.yaml"], ["agent", "--count", "2", f"lab/hdb/{SWEEP}"]):
            command, environment["WANDB_BASE_URL"] = [sys.executable, "-m", "wandb", *words], server.url
            done = subprocess.run(command, cwd=agent_room, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    print(f"sweep and agent: {time.monotonic() - started:.0f} s")
    assert server.project == "hdb" and list(server.runs) == ["run0", "run1"], done.stdout + done.stderr
    swept = [
        ("lr=0.001", "lidb.a=4", "hypernet.linear_path=True"),
        ("lr=0.0001", "lidb.a=3", "hypernet.linear_path=False"),
    ]
    for (name, run), values in zip(server.runs.items(), swept, strict=True):
        assert (run.exit_code, run.about["sweep"], run.about["project"]) == (0, SWEEP, "hdb")
        arguments = json.loads(run.files["wandb-metadata.json"])["args"]
        assert arguments[0] == "configs/faceworld/pretrain.yaml" and set(arguments[-3:]) == set(values)
        assert [str(run.config[value.split("=")[0]]) for value in values] == [value.split("=")[1] for value in values]
        assert run.config["preview.prompts"] == ["a photo of a [V] face", "a [V] face in the snow, oil painting"]
        validated = [line for line in run.history if "val/face_rec" in line]
        assert len(validated) >= 2 and all("val/clip_t" in line for line in validated)
        assert any("train/loss" in line for line in run.history)
        folder = agent_room / "outputs" / f"pretrain-{SWEEP}" / name
        assert run.summary["val/face_rec"] == pytest.approx(
            json.loads((folder / "metrics.json").read_text())["val/face_rec"]
        )
        assert any(path.startswith("media/images/val/pictures") for path in run.files)
        assert (folder / "hypernet" / "model.safetensors").is_file()
    monkeypatch.chdir(agent_room)
    best = trained.resolve_hypernet_path("best").parent
    assert "best of 2 runs by val/face_rec" in capsys.readouterr().out
    artifact = [sent for sent in server.artifacts if sent["artifactCollectionName"] == f"hypernet-{SWEEP}"][-1]
    assert artifact["committed"]
    assert "best" in [alias["alias"] for alias in artifact["aliases"]]
    assert artifact["files"]["model.safetensors"] == (best / "hypernet" / "model.safetensors").read_bytes()


def finished(sweep: Path, name: str, score: float | None, *, time: int) -> Path:
    """A run that left its scores at a certain time."""
    record = sweep / name / "metrics.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"step": 1} | ({} if score is None else {trained.SWEEP_METRIC: score})))
    os.utime(record, (time, time))
    return record.parent


def test_best_is_the_best_finished_run_of_the_newest_sweep(tmp_path, monkeypatch, call, capsys):
    assert call(evaluate, "hypernet=best") == 2
    assert "hypernet is best, but no outputs/pretrain" in capsys.readouterr().err
    finished(Path("outputs/pretrain-old"), "a", 0.9, time=10)
    finished(Path("outputs/pretrain-new"), "b", 0.4, time=20)
    finished(Path("outputs/pretrain-new"), "c", 0.6, time=15)
    finished(Path("outputs/pretrain-new"), "d", None, time=25)
    Path("outputs/pretrain-new/stopped").mkdir()
    assert trained.resolve_hypernet_path("best") == Path("outputs/pretrain-new/c/last.ckpt")
    assert trained.resolve_hypernet_path(None) == resolve_shipped(trained.SHIPPED_HYPERNET)
    assert trained.resolve_hypernet_path("./best") == Path("best")


def test_only_who_is_better_than_all_before_is_an_artifact(tmp_path, monkeypatch):
    logged = []
    logger = SimpleNamespace(
        log_artifact=lambda *files, metadata, **others: logged.append(metadata[trained.SWEEP_METRIC])
    )
    for sweep, scores in ((None, [0.1]), ("s", [0.2, 0.1, 0.3, 0.3])):
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep or "")
        for number, score in enumerate(scores):
            folder = tmp_path / f"pretrain-{sweep}" / str(number)
            log_best_of_sweep(logger, folder, {trained.SWEEP_METRIC: score})
            finished(folder.parent, folder.name, score, time=number)
    assert logged == [0.2, 0.3]


@pytest.mark.parametrize(("sweep", "left"), [("s", -signal.SIGTERM), ("", 128 + signal.SIGTERM)])
def test_a_run_that_its_agent_stopped_has_not_failed(sweep, left, tmp_path):
    program = (
        "import os, signal; from experiments.cli import run; run(lambda argv: os.kill(os.getpid(), signal.SIGTERM))"
    )
    environment = os.environ | {"WANDB_SWEEP_ID": sweep, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == left and "stopped by SIGTERM" in done.stderr
