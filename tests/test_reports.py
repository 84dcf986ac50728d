"""What people report of tools like this, one row a case: kind, what is given, what must come out.

The kinds are those of README's list of what is never lost; those of photos and folders of photos are in tests/faces.
"""

import errno
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_end_to_end import interrupt

from experiments import (
    ablate,
    base,
    evaluate,
    export,
    faceworld,
    generate,
    personalize,
    preoptimize,
    prepare,
    pretrain,
    search,
)
from experiments import config as schemas
from experiments.config import load
from hdb.diffusion import sampling
from hdb.diffusion.sheet import save_image
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces import artifacts
from hdb.files import atomic_write, write_files
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.prompts import has_identifier, read_prompts, remove_identifier
from hdb.runs import logger as log
from hdb.runs.folder import run_folder
from hdb.runs.locks import lock_path, locked
from hdb.runs.options import WandbOptions
from hdb.runs.outputs import resolve_output
from hdb.signals import SIGNALS
from hdb.training import checkpoints
from hdb.training.curves import read_curve
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining

LONG = "n" * 300
PERSON = "reference=me.png "
GRID = 'grids={"k1":{"methods.finetuning.lr":[0.1]}}'


@pytest.fixture
def room(call, tmp_path, tiny_diffusion) -> Path:
    """A folder with a photo, a subject and things of the user's."""
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save("me.png")
    Path("link.png").symlink_to("me.png")
    layout = Layout.from_models(tiny_diffusion.components, a=4, b=3)
    Subject(layout.initial_theta(), layout, {"base_digest": tiny_diffusion.digest}).save("s.safetensors")
    Path("notes.safetensors").write_bytes(b"mine")
    for name in ("photos/ada/1.jpg", "drawn/grid.png", "drawn/00-s-0.png", "run/notes.txt", "run/prompts.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"a [V] face\na [V] face\n")
    Path("photos/splits.json").write_text('{"train": ["ada"], "val": [], "test": []}')
    Path("run/config.yaml").write_text("seed: 5\n")
    Path("weights/encoder").mkdir(parents=True)
    Path("weights/encoder/model.safetensors").write_bytes(b"mine")

    return tmp_path


@pytest.fixture
def blind(room, monkeypatch) -> Path:
    """That folder, where no base can be read."""

    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network was read before the words were checked")

    monkeypatch.setattr(StableDiffusion, "from_pretrained", read)
    return room


REFUSED = [
    # 1: an output destroys an input
    (1, personalize, "reference=me.png output=me.safetensors", "me.png would take the place of me.png .reference."),
    (1, personalize, "reference=link.png output=me.safetensors overwrite=true", "take the place of link.png"),
    (1, personalize, "reference=me.png output=./run/../me.safetensors", "take the place of me.png"),
    (1, personalize, "reference=link.png output=notes.safetensors", "notes.safetensors is there and not of an earlier"),
    (1, export, "subject=s.safetensors output=s.safetensors", "take the place of s.safetensors .subject."),
    (1, export, "subject=s.safetensors output=notes.safetensors", "notes.safetensors is there .* overwrite=true"),
    (1, generate, "subject=s.safetensors output=drawn", "drawn/grid.png is there and not of an earlier call"),
    (1, faceworld, "portrait=me.png", "me.png is there and not of an earlier call"),
    (1, pretrain, "output=photos", "photos holds ada, which is of no run: expected a new or empty folder"),
    (1, evaluate, "output=run protocol.prompts=run/prompts.txt", "output run would take the place of run/prompts.txt"),
    (1, pretrain, "output=run", "run holds config.yaml, which is of no run"),
    (1, search, GRID + " output=run protocol.prompts=run/prompts.txt", "run would take the place of run/prompts.txt"),
    (1, preoptimize, "output=. faces.splits=photos/splits.json", "output . would take the place of"),
    (1, prepare, "source=folders root=photos output=photos", "photos would take the place of photos"),
    (1, prepare, "source=folders root=photos output=./photos/../photos", "would take the place of photos"),
    (1, base, "weights=weights parts=[encoder]", "weights weights/encoder were not trained in outputs/base/encoder"),
    # 11: found only after the work
    *((11, of, f"{words}num_inference_steps={given}", f"num_inference_steps is {given}, expected 1 to 999")
      for of, words in ((personalize, PERSON + "sampling."), (evaluate, "sampling."), (pretrain, "preview.sampling."),
                        (generate, "subject=s.safetensors sampling.")) for given in (0, 2000, 1000, -1)),
    *((11, of, f"{words} seed={given}", "seed is -?[0-9]+, expected 0 to 2..63 - 1")
      for of, words in ((personalize, PERSON), (pretrain, ""), (preoptimize, ""), (evaluate, ""), (base, ""),
                        (generate, "subject=s.safetensors")) for given in (-1, 2**63)),
    (11, personalize, PERSON + "prompts=[]", "prompts is .., expected at least one text"),
    (11, personalize, PERSON + f"output={LONG}.safetensors", "output has a name of 312 bytes .*at most 255"),
    (11, personalize, PERSON + "output=/proc/me.safetensors", "output /proc/.* cannot be written"),
    (11, personalize, PERSON + "output=me.png/me.safetensors", "me.safetensors cannot be written: .*me.png"),
    (11, personalize, PERSON + "finetuning.lr=nan", "finetuning.lr is 'nan', expected a finite number"),
    (11, personalize, PERSON + "finetuning.num_steps=0", "finetuning.num_steps is 0, expected at least 1"),
    (11, personalize, PERSON + "sampling.guidance_scale=-inf", "guidance_scale is '-inf', expected a finite number"),
    (11, personalize, PERSON + "accelerator=abacus", "accelerator is 'abacus', expected one of auto, cpu"),
    (11, personalize, PERSON + "accelerator=tpu", "this machine has no accelerator=tpu devices=1 .*expected"),
    (11, pretrain, "processes.devices=two", "this machine has no accelerator=cpu devices=two .*should be an int"),
    (11, pretrain, "processes.strategy=fsdpp", "no accelerator=cpu .* strategy=fsdpp .*invalid strategy name"),
    (11, personalize, PERSON + "precision=12", "precision is '12', expected one of 32-true"),
    (11, personalize, PERSON + "memory=none", "memory is 'none', expected normal or low"),
    (11, personalize, PERSON + "face=0", "face is 0, expected at least 1"),
    (11, personalize, PERSON + "wandb.mode=sometimes", "wandb.mode is 'sometimes', expected one of online"),
    (11, personalize, "reference=you.png", "you.png: no such file"),
    (11, personalize, PERSON + "hypernet=nowhere/last.ckpt", "no checkpoint at nowhere/last.ckpt"),
    (11, personalize, PERSON + "encoder=nowhere/encoder", "nowhere/encoder/config.json is missing"),
    (11, evaluate, "judges.dino=nowhere/dino hypernet=weights", "weights/config.json is missing"),
    (11, pretrain, "beta=1 thetas=run", "no thetas-.* in run: run preoptimize first"),
    (11, pretrain, "judges.recognizer=nowhere/judge", "no face recognizer in nowhere/judge"),
    (11, generate, "subject=nobody.safetensors", "no file nobody.safetensors"),
    (11, pretrain, f"output=runs/{LONG}", "output has a name of 300 bytes"),
    (11, pretrain, "output=me.png", "output me.png is a file, expected the name of a folder"),
    (11, search, GRID + " output=me.png", "output me.png is a file, expected the name of a folder"),
    (11, prepare, "source=folders root=photos output=me.png", "output me.png is a file, expected the name of a"),
    (11, faceworld, "root=me.png", "output me.png is a file, expected the name of a folder"),
    (11, pretrain, "output=/proc/run", "output /proc/run cannot be written"),
    (11, pretrain, "faces.batch_size=0", "faces.batch_size is 0, expected at least 1"),
    (11, pretrain, "faces.num_workers=-1", "faces.num_workers is -1, expected at least 0"),
    (11, pretrain, "linear_lr=-1e-3", "linear_lr is -0.001, expected a number above 0"),
    (11, pretrain, "preview.prompts=[]", "preview.prompts is .., expected at least one text"),
    (11, pretrain, "preview.num_identities=0", "preview.num_identities is 0, expected at least 1"),
    (11, pretrain, "hypernet.num_heads=3", "hypernet.width is 8, expected a multiple of hypernet.num_heads"),
    (11, pretrain, "distance=far", "distance is 'far', expected residuals or factors"),
    (11, pretrain, "schedule.max_minutes=inf", "max_minutes is 'inf'"),
    (11, pretrain, "alpha=0", "alpha and beta are both 0"),
    (11, pretrain, "gamma=1 hypernet.freeze_encoder=false", "gamma = 1.0 .* expected a frozen encoder"),
    (11, preoptimize, "timesteps=high", "timesteps is 'high', expected uniform or high_noise"),
    (11, preoptimize, "lidb.a=0", "lidb.a is 0, expected at least 1"),
    (11, evaluate, "protocol.num_resamples=0", "num_resamples is 0, expected at least 1"),
    (11, evaluate, "methods.no_hyper_lr=0", "no_hyper_lr is 0.0, expected a number above 0"),
    (11, evaluate, "methods.finetuning.mask=eye", "methods.finetuning.mask is 'eye', expected face or null"),
    (11, evaluate, "methods.dreambooth.num_class_pictures=0", "num_class_pictures is 0, expected at least 1"),
    (11, evaluate, "methods.textual_inversion.batch_size=0", "textual_inversion.batch_size is 0, expected at least 1"),
    (11, pretrain, "identity_until=0", "identity_until is 0.0, expected a number above 0 to 1"),
    (11, pretrain, "identity_samples=0", "identity_samples is 0, expected at least 1"),
    (11, search, "methods.names=[]", "no method to search for, expected at least one in grids"),
    (11, search, GRID + " hypernet=nowhere", "nowhere.* is missing"),
    (11, search, 'grids={"k1":{"methods.finetuning.lr":[]}}', "grids has no field for k1, expected one at least"),
    (11, search, 'grids={"k1":{"sampling.guidance_scale":[1,2]}}', "grids has sampling.guidance_scale, but all"),
    (11, search, 'grids={"k1":{"methods.finetuning.lr":[0]}}', "finetuning.lr is 0.0, expected a number above 0"),
    (11, generate, "subject=s.safetensors scale=inf", "scale is 'inf', expected a finite number"),
    (11, generate, f"subject=s.safetensors output={LONG}", "output has a name of 300 bytes"),
    (11, prepare, "source=folders root=photos output=o cache.base=nowhere", "no Stable Diffusion at nowhere: expected"),
    (11, prepare, "source=folders root=photos output=o cache.encoder=vit_tall", "'vit_tall' is neither a folder"),
    (11, prepare, "source=folders root=photos output=o margin=nan", "margin is 'nan'"),
    (11, base, "encoder.lr=0", "encoder.lr is 0.0, expected a number above 0"),
    (11, faceworld, "portrait=you.jpg", "portrait is 'you.jpg', expected a file name ending in .png"),
    (11, faceworld, "portrait=you.png identity=999999", "identity is 999999, expected 0 to 2399"),
    (11, base, "parts=[]", "parts is .., expected at least one text"),
    (11, faceworld, f"portrait={LONG}.png", "output has a name of 304 bytes"),
    (11, export, "subject=s.safetensors output=x.safetensors scale=nan", "scale is 'nan', expected a finite number"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "command", "words", "says"), REFUSED)
def test_it_is_refused_before_a_network_is_read_and_nothing_is_changed(kind, command, words, says, call, blind, capsys):
    if command is personalize and "output=" not in words:
        words += " output=out/me.safetensors"
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    assert call(command, *words.split()) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(says, said), said
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before


def test_variants_of_an_ablation_have_a_folder_each(call, capsys):
    configs = Path(__file__).parents[1] / "configs" / "faceworld"
    yamls = [f"{stage}={configs}/{stage}.yaml" for stage in ("pretrain", "evaluate")]
    for variants, says in (("{a b: {}, a-b: {}}", "'a-b' and another would share"), ("{../x: {}}", "called '../x'")):
        assert call(ablate, *yamls, f"variants={variants}") == 2
        assert says in capsys.readouterr().err


def test_what_an_earlier_call_made_may_be_replaced_and_other_things_when_told(call, room):
    for output, words in (("l.safetensors", []), ("l.safetensors", []), ("notes.safetensors", ["overwrite=true"])):
        assert call(export, "subject=s.safetensors", f"output={output}", *words) == 0
    for portrait, words in (("new.png", []), ("new.png", []), ("me.png", ["overwrite=true"])):
        assert call(faceworld, f"portrait={portrait}", "resolution=64", "identity=0", *words) == 0


# 2: two runs, one folder


def elsewhere(work: Callable[[], object]) -> tuple[int, Callable[[], None]]:
    """Another process that does something and waits; its number, and what kills it."""
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        try:
            with locked(work()):
                os.write(done, b"1")
                signal.pause()
        finally:
            os._exit(1)  # else it would go on with the tests
    os.close(done)
    assert os.read(ready, 1), "the other process ended before it was ready"
    return child, lambda: (os.kill(child, signal.SIGKILL), os.waitpid(child, 0))


@pytest.mark.parametrize("spelled", ["run", "./run/../run", "link"])
def test_a_living_runs_folder_is_never_touched_and_a_dead_ones_is_free(spelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("link").symlink_to("run")
    Path("run/config.yaml").write_text("lidb.seed: 1\n")
    child, kill = elsewhere(lambda: tmp_path / "run")
    with pytest.raises(ValueError, match=rf"another run works in .*process {child}"):
        with run_folder(spelled, {"lidb.seed": 2}, result="r.json"):
            pass
    assert Path("run/config.yaml").read_text() == "lidb.seed: 1\n" and not Path("run.1").exists()
    kill()
    with run_folder(spelled, {"lidb.seed": 2}, result="r.json") as resumed:
        assert not resumed
    assert Path("run.1/config.yaml").read_text() == "lidb.seed: 1\n"
    assert not lock_path("run").exists()


def test_a_folder_with_a_living_run_within_is_not_set_aside(tmp_path):
    (tmp_path / "all" / "one").mkdir(parents=True)
    (tmp_path / "all" / "config.yaml").write_text("lidb.seed: 1\n")
    _, kill = elsewhere(lambda: tmp_path / "all" / "one")
    with pytest.raises(ValueError, match="a run goes on within"):
        with run_folder(tmp_path / "all", {"lidb.seed": 2}, result="r.json"):
            pass
    kill()


@pytest.mark.parametrize(("command", "words", "place"), [
    (personalize, PERSON + "output=you.safetensors", "you.safetensors"),
    (export, "subject=s.safetensors output=l.safetensors", "l.safetensors"),
    (generate, "subject=s.safetensors output=pictures", "pictures/grid.png"),
    (search, GRID + " output=search", "search"),
])  # fmt: skip
def test_a_second_call_for_the_same_files_gets_a_sentence(command, words, place, call, blind, capsys):
    Path(place).parent.mkdir(exist_ok=True)
    _, kill = elsewhere(lambda: blind / place)
    assert call(command, *words.split()) == 2
    assert "error: another run works in" in capsys.readouterr().err
    kill()


def test_runs_of_one_agent_have_a_place_each(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    places = set()
    for run in ("one", "two"):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        folder = resolve_output(tmp_path / "pretrain")
        assert resolve_output(folder / "within") == folder / "within"
        places |= {folder, resolve_output("me.safetensors", is_file=True)}
    assert places == {tmp_path / "pretrain-sweep" / run for run in ("one", "two")} | {
        Path("sweep", run, "me.safetensors") for run in ("one", "two")}  # fmt: skip


def test_writers_of_one_file_have_temporary_names_of_their_own_that_fit(tmp_path):
    for name in ("a", "n" * 250):
        with atomic_write(tmp_path / name) as first, atomic_write(tmp_path / name) as second:
            first.touch(), second.touch()
            assert first != second
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


# 5: a signal that looks like success

STAGES = [
    (pretrain, "", HyperNetPretraining, "training_step", 3, "outputs/pretrain/last.ckpt"),
    (preoptimize, "", Preoptimization, "training_step", 2, "outputs/preoptimize/shard-00000.ckpt"),
    (personalize, PERSON + "output=you.safetensors crop=false", SubjectFinetuning, "training_step", 2, None),
    (
        evaluate,
        "protocol.num_identities=2 protocol.num_prompts=1 protocol.num_pictures=1",
        sampling,
        "sample",
        2,
        "outputs/eval/subjects",
    ),
    (generate, "subject=s.safetensors", sampling, "sample", 1, None),
]


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals do what they do to a process in front: tests in a shell's background, or under nohup, ignore some."""
    handlers = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("stage", "number"),
    [(0, signal.SIGTERM), (0, signal.SIGUSR1), (0, signal.SIGINT), (1, signal.SIGTERM), (1, signal.SIGHUP)]
    + [(2, signal.SIGTERM), (3, signal.SIGUSR2), (4, signal.SIGTERM)],
)
def test_a_signal_is_said_and_keeps_what_was_reached(
    heeded, stage, number, call, tiny_weights, monkeypatch, capsys, room
):
    command, words, owner, method, at, kept = STAGES[stage]
    real, calls = getattr(owner, method), []

    def killed(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, method, killed)
    hypernet = [f"hypernet={tiny_weights}/hypernet"] if command in (personalize, evaluate) else []
    assert call(faceworld, "portrait=me.png", "resolution=64", "identity=0", "overwrite=true") == 0
    assert call(command, *words.split(), *hypernet) == 128 + number
    said = capsys.readouterr().err
    assert ("interrupted" if number == signal.SIGINT else f"stopped by {number.name}") in said
    assert kept is None or Path(kept).exists()
    if kept and kept.endswith(".ckpt"):  # whole steps only
        assert torch.load(kept, weights_only=True)["global_step"] == at
    assert call(command, *words.split(), *hypernet) == 0


def test_what_whoever_started_us_has_us_ignore_stays_ignored(call, room, monkeypatch):
    def read(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise ValueError("went on")

    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(StableDiffusion, "from_pretrained", read)
        assert call(generate, "subject=s.safetensors", "output=new") == 2
    finally:
        signal.signal(signal.SIGHUP, earlier)


# 6: who is logged in


@pytest.mark.parametrize(("netrc", "url", "known"), [
    ("machine api.wandb.ai\n  login user\n  password {key}\n", None, True),
    ("machine localhost:8080\n  login user\n  password {key}\n", "http://localhost:8080", True),
    ("machine wandb.lab\n  login user\n  password {key}\n", "https://wandb.lab", True),
    ("machine other.org\n  login user\n  password {key}\n", None, False),
    ("machine api.wandb.ai\n  login", None, False),
    ("", None, False),
])  # fmt: skip
def test_wandb_itself_is_asked_who_is_logged_in(netrc, url, known, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".netrc").write_text(netrc.format(key="0" * 40))
    if url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
    assert artifacts.has_login() == known


@pytest.mark.parametrize(("asked", "environment", "mode"), [
    (None, None, "offline"), ("dryrun", None, "offline"), (None, "dryrun", "offline"), (None, "disabled", "disabled"),
    (None, "sometimes", "offline"), ("disabled", "online", "disabled"),
])  # fmt: skip
def test_modes_are_wandbs(asked, environment, mode, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "has_login", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert log.resolve_mode(asked) == mode


class Run:
    """A run of W&B that cannot do anything."""

    id = "abc"

    def __getattr__(self, name: str) -> Callable[..., object]:
        def fails(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EACCES, f"no {name}")

        return fails


@pytest.mark.parametrize("fails_in", [("online",), ("online", "offline"), ("online", "offline", "disabled")])
def test_logging_never_decides_whether_there_is_a_file(fails_in, call, tiny_weights, monkeypatch, capsys):
    asked = []

    def init(**words: object) -> Run:
        asked.append(words)
        if words["mode"] in fails_in:
            raise wandb.errors.CommError("no answer")
        return Run()

    log._printed_warnings.clear()
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(log, "has_login", lambda: True)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=0") == 0
    name = "n" * 140
    words = [f"hypernet={tiny_weights}/hypernet", "reference=face.png", f"output={name}.safetensors"]
    assert call(personalize, *words) == 0
    assert Path(f"{name}.safetensors").is_file() and Path(f"{name}.png").is_file()
    assert [of["mode"] for of in asked][: len(fails_in)] == list(fails_in)
    assert {of["project"] for of in asked} == {"mine"}
    assert asked[0]["settings"].init_timeout <= 15
    assert "W&B cannot log online (CommError: no answer): going on offline" in capsys.readouterr().err


def test_a_run_that_is_gone_on_with_is_one_run_at_wandb(tmp_path, monkeypatch):
    ids = []
    monkeypatch.setattr(wandb, "init", lambda **words: ids.append(words["id"]) or Run())
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    about = {"mode": "offline", "project": "p", "name": None, "stage": "s", "config": {}}
    for keep in (True, True, False):
        log.start_logger(tmp_path, keep_id=keep, **about)
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    log.start_logger(tmp_path, keep_id=True, **about)
    assert ids == [None, "abc", None, "mine"]


# 7: resume


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [halve, spoil, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_is_said_and_the_one_before_gone_on_from(damage, both, tmp_path, capsys):
    last = tmp_path / "last.ckpt"
    for step in (1, 2):
        checkpoints.AtomicCheckpointIO().save_checkpoint(
            {"state_dict": {"w": torch.ones(99)}, "global_step": step}, last
        )
    assert checkpoints.find_checkpoint(last) == last
    for path in [last, checkpoints.previous_checkpoint_path(last)][: 1 + both]:
        damage(path)
    found = checkpoints.find_checkpoint(last)
    assert found is None if both else torch.load(found, weights_only=True)["global_step"] == 1
    assert ("is damaged" in capsys.readouterr().out) == last.with_name("last.ckpt.damaged").exists()


def test_a_checkpoint_killed_while_it_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    last = tmp_path / "last.ckpt"
    content = {"state_dict": {}, "global_step": 1}
    checkpoints.AtomicCheckpointIO().save_checkpoint(content, last)
    before, real = last.read_bytes(), Path.write_bytes

    def torn(path: Path, data: bytes) -> None:
        assert path.parent == tmp_path
        real(path, bytes(data)[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.AtomicCheckpointIO().save_checkpoint(content | {"global_step": 2}, last)
    assert last.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


GOES_ON = [
    "faces.num_workers=1",
    "schedule.checkpoint_every=2",
    "accelerator=cpu",
    "schedule.max_minutes=60",
    "schedule.val_every=2",
]
GOES_ON += [
    "schedule.max_steps=6",
    "wandb.name=other",
    "memory=low",
    "preview.num_identities=1",
    "output=outputs/./pretrain",
]
SEPARATE = ["lr=0.5", "seed=1", "faces.batch_size=1", "schedule.max_steps=3", "lidb.seed=1"]


@pytest.mark.parametrize("words", [*GOES_ON, *SEPARATE])
def test_only_what_changes_the_result_separates_runs(words, tmp_path, monkeypatch):
    from experiments.runs import VALIDATION_ONLY, claim_run_folder

    monkeypatch.chdir(tmp_path)
    first, second = (load(schemas.Pretrain, ["beta=0", "schedule.max_steps=4", *more]) for more in ([], words.split()))
    for config, goes_on in ((first, False), (second, words in GOES_ON)):
        folder = claim_run_folder(
            Path(config.output), config, result="metrics.json", depends_on={}, not_in_key=VALIDATION_ONLY
        )
        with folder as resumed:
            assert resumed == goes_on
    assert Path("outputs/pretrain.1").exists() == (words in SEPARATE)


def test_more_steps_go_on_from_a_halved_and_from_a_finished_training(call, monkeypatch, capsys):
    interrupt(monkeypatch, HyperNetPretraining, "training_step", at=3)
    assert call(pretrain) == 130
    last = Path("outputs/pretrain/last.ckpt")
    assert checkpoints.previous_checkpoint_path(last).is_file()
    halve(last)
    assert call(pretrain, "schedule.checkpoint_every=2") == 0
    assert "last.ckpt is damaged" in (said := capsys.readouterr().out) and "going on from" in said
    finished = Path("outputs/pretrain/metrics.json").read_bytes()
    assert call(pretrain, "schedule.max_steps=6") == 0
    assert "going on from its last step, to step 6" in capsys.readouterr().out
    assert Path("outputs/pretrain.1/metrics.json").read_bytes() == finished
    assert json.loads(Path("outputs/pretrain/metrics.json").read_text())["step"] == 6
    assert [step for step, _ in read_curve("outputs/pretrain")] == [1, 2, 3, 4, 5, 6]


# 8: words that are YAML

WORDS = [
    (schemas.Generate, "prompts", "a [V] face #selfie", ["a [V] face #selfie"]),
    (schemas.Generate, "prompts", "portrait: a [V] face, smiling", ["portrait: a [V] face, smiling"]),
    (schemas.Generate, "prompts", "[V] face", ["[V] face"]),
    (schemas.Generate, "prompts", "[V]", ["[V]"]),
    (schemas.Generate, "prompts", "[a [V] face, a [V] face in oil]", ["a [V] face", "a [V] face in oil"]),
    (schemas.Generate, "prompts", """['a, b', "it's"]""", ["a, b", "it's"]),
    (schemas.Generate, "prompts", '["a, b", c]', ["a, b", "c"]),
    (schemas.Generate, "subject", "[2023] me.safetensors", ["[2023] me.safetensors"]),
    (schemas.Generate, "subject", "[it's.safetensors,b]", ["it's.safetensors", "b"]),
    (schemas.Personalize, "reference", "IMG #1.png", "IMG #1.png"),
    (schemas.Personalize, "reference", "@me.jpg", "@me.jpg"),
    (schemas.Personalize, "reference", "???", "???"),
    (schemas.Personalize, "reference", "${oc.env:HOME}/me.png", "${oc.env:HOME}/me.png"),
    (schemas.Personalize, "consent", "yes", "yes"),
    (schemas.Personalize, "consent", "null", "null"),
    (schemas.Personalize, "consent", "", ""),
    (schemas.Pretrain, "faces.root", "2024_05", "2024_05"),
    (schemas.Pretrain, "faces.root", "1e3", "1e3"),
    (schemas.Personalize, "wandb.name", "12:30:45", "12:30:45"),
    # what W&B's agent writes
    (schemas.Personalize, "wandb.name", "None", None),
    (schemas.Personalize, "hypernet", "null", None),
    (schemas.Personalize, "finetuning.lr", "None", None),
    (schemas.Personalize, "finetuning.lr", "1e-05", 1e-5),
    (schemas.Personalize, "face", "2.0", 2),
    (schemas.Personalize, "crop", "True", True),
    (schemas.Pretrain, "faces.crop", "False", False),
    (schemas.Evaluate, "methods.names", "None", None),
    (schemas.Evaluate, "methods.names", "['only_hyper', 'hyperdreambooth']", ["only_hyper", "hyperdreambooth"]),
    (schemas.Pretrain, "wandb", "{'name': None, 'project': '12:30'}", WandbOptions(project="12:30")),
    (schemas.Pretrain, "wandb", "{name: 2024_05}", WandbOptions(name="2024_05")),
]  # fmt: skip
REQUIRED = {schemas.Generate: ["subject=s"], schemas.Personalize: ["reference=r"]}


def field_of(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(("schema", "name", "word", "arrives"), WORDS)
def test_a_word_arrives_as_it_was(schema, name, word, arrives):
    assert field_of(load(schema, [*REQUIRED.get(schema, []), f"{name}={word}"]), name) == arrives


def test_text_in_a_yaml_is_what_is_spelled_there(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "faces: {root: 2024_05}\nwandb: {name: 12:30:45}\nbeta: 0\npreview: {prompts: [yes, 'a: b']}\nlr: 1e-3\n"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16")):
        path.write_bytes(content)
        config = load(schemas.Pretrain, [str(path)])
        assert (config.faces.root, config.wandb.name, config.lr) == ("2024_05", "12:30:45", 1e-3)
        assert config.preview.prompts == ["yes", "a: b"]
    path.write_text("lr: 1\nlr: 2\n")
    with pytest.raises(ValueError, match="mine.yaml is not readable as YAML: lr stands there twice"):
        load(schemas.Pretrain, [str(path)])


TEXT = st.text()


@settings(deadline=None, max_examples=25)
@given(text=TEXT.filter(lambda text: text not in ("null", "None")), texts=st.lists(TEXT, min_size=1))
def test_random_words_arrive_in_every_field_of_text(text, texts):
    names = ("reference", "consent", "source", "hypernet", "wandb.name", "wandb.project", "base.path")
    config = load(schemas.Personalize, [*(f"{name}={text}" for name in names), f"prompts={texts!r}"])
    assert [field_of(config, name) for name in names] == [text] * len(names) and config.prompts == texts


# 12: small

PROMPTS = "a [V] face\n\na [V] face in Zürich \U0001f600\n"


@pytest.mark.parametrize("data", [
    PROMPTS.encode(), b"\xef\xbb\xbf" + PROMPTS.encode(), PROMPTS.encode("utf-16"), PROMPTS.encode("utf-16-le"),
    PROMPTS.encode("utf-16-be"), b"\xfe\xff" + PROMPTS.encode("utf-16-be"), PROMPTS.encode("utf-32"),
    PROMPTS.replace("\n", "\r\n").encode(), PROMPTS.replace("\n", "\r").encode(),
])  # fmt: skip
def test_prompts_are_read_in_whatever_they_were_written(data, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(data)
    assert read_prompts(tmp_path / "prompts.txt", num=2) == ["a [V] face", "a [V] face in Zürich \U0001f600"]


def test_what_is_no_text_is_refused_by_name(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(ValueError, match="prompts.txt is no text in UTF-8 or UTF-16"):
        read_prompts(tmp_path / "prompts.txt", num=1)


@pytest.mark.parametrize("identifier", ["[V]", "[v]"])
def test_the_identifier_is_known_in_either_case(identifier):
    assert has_identifier(f"a {identifier} face") and remove_identifier(f"a {identifier} face") == "a face"


@pytest.mark.parametrize("write", [
    lambda path: write_files({path: b"1"}), lambda path: write_files({path.with_name("b"): b"2", path: b"1"}),
    lambda path: save_image(Image.new("RGB", (4, 4)), path),
    lambda path: checkpoints.AtomicCheckpointIO().save_checkpoint({}, path),
])  # fmt: skip
def test_a_full_disk_names_the_file(write, tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*me.file|me.file.*No space left on device"):
        write(tmp_path / "me.file")
    assert list(tmp_path.iterdir()) == []
