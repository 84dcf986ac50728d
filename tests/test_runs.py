"""The folder of a run: locked while it runs, resumed if it is the same run, set aside if it is another."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from test_end_to_end import interrupt

from experiments import export, generate, personalize, pretrain, search
from experiments.config import Inspect, Pretrain, load
from experiments.runs import VALIDATION_ONLY, claim_run_folder
from hdb.diffusion.sheet import save_image, to_pil
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.runs.folder import run_folder
from hdb.runs.locks import lock_path, locked
from hdb.runs.outputs import resolve_output
from hdb.training import checkpoints
from hdb.training.curves import read_curve
from hdb.training.pretrain import HyperNetPretraining


@pytest.mark.parametrize(
    ("change", "is_same"),
    [({}, True), ({"an.old.setting": 3}, True), ({"lidb.a": 7}, False), ({"base_digest": "0ther"}, False)],
)
def test_an_unfinished_run_of_the_same_settings_is_resumed(tmp_path, change, is_same):
    folder = tmp_path / "run"
    depends_on = {"base_digest": "ba5e"}
    with claim_run_folder(folder, Inspect(), result="done.json", depends_on=depends_on) as is_resumed:
        assert not is_resumed
    record = folder / "config.yaml"
    record.write_text(yaml.safe_dump(yaml.safe_load(record.read_text()) | change))
    with claim_run_folder(folder, Inspect(), result="done.json", depends_on=depends_on) as is_resumed:
        assert is_resumed == is_same
    assert Path(f"{folder}.1").exists() == (not is_same)


SAME_RUN = ["faces.num_workers=1", "schedule.checkpoint_every=2", "schedule.max_minutes=60", "schedule.val_every=2"]
SAME_RUN += ["schedule.max_steps=6", "wandb.name=other", "memory=low", "accelerator=cpu"]
SAME_RUN += ["preview.num_identities=1", "output=outputs/./pretrain"]
OTHER_RUN = ["lr=0.5", "seed=1", "faces.batch_size=1", "schedule.max_steps=3", "lidb.seed=1"]


@pytest.mark.parametrize("word", [*SAME_RUN, *OTHER_RUN])
def test_only_what_changes_the_result_separates_runs(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = load(Pretrain, ["beta=0", "schedule.max_steps=4"])
    second = load(Pretrain, ["beta=0", "schedule.max_steps=4", word])
    for config, expected in ((first, False), (second, word in SAME_RUN)):
        folder = Path(config.output)
        with claim_run_folder(
            folder, config, result="metrics.json", depends_on={}, not_in_key=VALIDATION_ONLY
        ) as is_resumed:
            assert is_resumed == expected
    assert Path("outputs/pretrain.1").exists() == (word in OTHER_RUN)


def hold_lock(path: Path) -> tuple[int, Callable[[], None]]:
    """Starts a process that holds a lock; returns its number, and what kills it."""
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        try:
            with locked(path):
                os.write(done, b"1")
                signal.pause()
        finally:
            os._exit(1)  # else it would go on with the tests
    os.close(done)
    assert os.read(ready, 1), "the other process ended before it was ready"
    return child, lambda: (os.kill(child, signal.SIGKILL), os.waitpid(child, 0))


@pytest.mark.parametrize("spelling", ["run", "./run/../run", "link"])
def test_the_folder_of_a_living_run_is_locked_and_that_of_a_dead_one_is_free(spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("link").symlink_to("run")
    Path("run/config.yaml").write_text("lidb.seed: 1\n")
    child, kill = hold_lock(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"another run works in .*process {child}"):
        with run_folder(spelling, {"lidb.seed": 2}, result="r.json"):
            pass
    assert Path("run/config.yaml").read_text() == "lidb.seed: 1\n" and not Path("run.1").exists()
    kill()
    with run_folder(spelling, {"lidb.seed": 2}, result="r.json") as is_resumed:
        assert not is_resumed
    assert Path("run.1/config.yaml").read_text() == "lidb.seed: 1\n"
    assert not lock_path("run").exists()


def test_a_folder_with_a_living_run_within_is_not_set_aside(tmp_path):
    (tmp_path / "all" / "one").mkdir(parents=True)
    (tmp_path / "all" / "config.yaml").write_text("lidb.seed: 1\n")
    _, kill = hold_lock(tmp_path / "all" / "one")
    with pytest.raises(ValueError, match="a run goes on within"):
        with run_folder(tmp_path / "all", {"lidb.seed": 2}, result="r.json"):
            pass
    kill()


@pytest.mark.parametrize(
    ("command", "words", "output"),
    [
        (personalize, ["reference=me.png", "output=you.safetensors"], "you.safetensors"),
        (export, ["subject=s.safetensors", "output=l.safetensors"], "l.safetensors"),
        (generate, ["subject=s.safetensors", "output=pictures"], "pictures/grid.png"),
        (search, ["methods.names=[k1]", 'grids={"k1":{"methods.finetuning.lr":[0.1]}}', "output=search"], "search"),
    ],
)
def test_a_second_call_for_the_same_files_is_refused(command, words, output, call, tiny_diffusion, tmp_path, capsys):
    save_image(to_pil(torch.full((3, 64, 64), 0.4)), "me.png")
    layout = Layout.from_models(tiny_diffusion.components, a=4, b=3)
    Subject(layout.initial_theta(), layout, {"base_digest": tiny_diffusion.digest}).save("s.safetensors")
    Path(output).parent.mkdir(exist_ok=True)
    _, kill = hold_lock(tmp_path / output)
    assert call(command, *words) == 2
    assert "error: another run works in" in capsys.readouterr().err
    kill()


def test_runs_of_one_agent_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    for run in ("one", "two"):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        folder = resolve_output(tmp_path / "pretrain")
        assert folder == tmp_path / "pretrain-sweep" / run
        assert resolve_output(folder / "within") == folder / "within"
        assert resolve_output("me.safetensors", is_file=True) == Path("sweep", run, "me.safetensors")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [halve, flip_a_byte, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
@pytest.mark.parametrize("damages_both", [False, True])
def test_the_previous_checkpoint_is_used_if_the_last_is_damaged(damage, damages_both, tmp_path, capsys):
    last = tmp_path / "last.ckpt"
    for step in (1, 2):
        content = {"state_dict": {"w": torch.ones(99)}, "global_step": step}
        checkpoints.AtomicCheckpointIO().save_checkpoint(content, last)
    assert checkpoints.find_checkpoint(last) == last
    damage(last)
    if damages_both:
        damage(checkpoints.previous_checkpoint_path(last))
    found = checkpoints.find_checkpoint(last)
    assert found is None if damages_both else torch.load(found, weights_only=True)["global_step"] == 1
    assert ("is damaged" in capsys.readouterr().out) == last.with_name("last.ckpt.damaged").exists()


def test_a_checkpoint_killed_while_it_is_written_leaves_the_previous_one(tmp_path, monkeypatch):
    last = tmp_path / "last.ckpt"
    content = {"state_dict": {}, "global_step": 1}
    checkpoints.AtomicCheckpointIO().save_checkpoint(content, last)
    before = last.read_bytes()
    write_bytes = Path.write_bytes

    def torn(path: Path, data: bytes) -> None:
        assert path.parent == tmp_path
        write_bytes(path, bytes(data)[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.AtomicCheckpointIO().save_checkpoint(content | {"global_step": 2}, last)
    assert last.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_more_steps_go_on_from_a_damaged_and_from_a_finished_training(call, monkeypatch, capsys):
    interrupt(monkeypatch, HyperNetPretraining, "training_step", at=3)
    assert call(pretrain) == 130
    last = Path("outputs/pretrain/last.ckpt")
    assert checkpoints.previous_checkpoint_path(last).is_file()
    halve(last)
    assert call(pretrain, "schedule.checkpoint_every=2") == 0
    printed = capsys.readouterr().out
    assert "last.ckpt is damaged" in printed and "going on from" in printed
    finished = Path("outputs/pretrain/metrics.json").read_bytes()
    assert call(pretrain, "schedule.max_steps=6") == 0
    assert "going on from its last step, to step 6" in capsys.readouterr().out
    assert Path("outputs/pretrain.1/metrics.json").read_bytes() == finished
    assert json.loads(Path("outputs/pretrain/metrics.json").read_text())["step"] == 6
    assert [step for step, _ in read_curve("outputs/pretrain")] == [1, 2, 3, 4, 5, 6]
