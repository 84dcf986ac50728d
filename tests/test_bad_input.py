"""Whatever a user gets wrong: exit code 2, one sentence of what was given and what expected, nothing left behind."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import evaluate, faceworld, generate, inspect, personalize, preoptimize, pretrain, search
from hdb.diffusion.sheet import to_pil
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld import dataset
from hdb.faceworld.world import FaceWorld
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout

PICTURES = {
    "notes.png": "notes.png is not a picture; expected JPEG",
    "torn.png": "torn.png is a PNG picture that is truncated or damaged.*expected a whole picture",
    "wall.png": "no face found in wall.png .*expected an upright face of at least 16 px",
    "nothing.png": "nothing.png: no such file; expected a picture",
}
WORDS = [
    (personalize, "subject=me.png", "unknown config key 'subject' .*known here: "),
    (personalize, "", "reference must be given: add reference="),
    (
        personalize,
        "reference=face.png output=me.png",
        "output is 'me.png', expected a file name ending in",
    ),
    (personalize, "reference=face.png finetuning.rank=0", "finetuning.rank is 0, expected at least 1"),
    (personalize, "reference=face.png hypernet=nowhere", "nowhere.* is missing"),
    (personalize, "reference=face.png encoder=nowhere/encoder", "nowhere/encoder.* is missing"),
    (personalize, "reference=face.png base.path=nowhere", "no Stable Diffusion at nowhere: expected a folder"),
    (personalize, "reference=face.png base.dtype=int8", "base.dtype is 'int8', expected one of float32, "),
    (personalize, "reference=face.png dtype=bfloat16", "dtype of a subject's file is 'bfloat16', expected float16 or"),
    (personalize, "reference=face.png finetuning.basis=lora", "finetuning.basis is 'lora', expected lidb or free"),
    (
        personalize,
        "reference=face.png base.revision=main",
        "revision 'main' was given for the folder .*: only a hub id",
    ),
    (personalize, "reference=face.png base.path=pickle.ckpt", "pickle.ckpt is a pickled checkpoint and was not read"),
    (personalize, "reference=face.png wandb.mode=online", "wandb.mode=online needs WANDB_API_KEY"),
    (
        personalize,
        "reference=face.png finetuning.timesteps=all",
        "timesteps is 'all', expected uniform or high_noise",
    ),
    (personalize, "reference=face.png hypernet=foreign", "foreign was trained on the base 0000, not on base "),
    (pretrain, "lidb.rank=0", "lidb.rank is 0, expected at least 1"),
    (pretrain, "beta=1 thetas=empty", "no thetas-.* in empty: run preoptimize first"),
    (pretrain, "beta=1", "beta = 1.0 .* no targets were given"),
    (pretrain, "faces.source=folders faces.root=empty", "empty holds no picture; expected empty/<name>/<picture>"),
    (pretrain, "faces.source=nowhere", "faces.source is 'nowhere', expected one of folders, "),
    (pretrain, "faces.num_identities=0", "0 train identities asked for; faceworld has 1 to 20"),
    (pretrain, "judges.recognizer=nowhere/judge", "no face recognizer in nowhere/judge"),
    (preoptimize, "identities_per_shard=0", "identities_per_shard is 0, expected at least 1"),
    (evaluate, "protocol.prompts=nowhere.txt", "no prompts in nowhere.txt"),
    (evaluate, "methods.finetuning.basis=lora", "methods.finetuning.basis is 'lora', expected lidb or free"),
    (evaluate, "dtype=int8", "dtype of a subject's file is 'int8', expected float16 or float32"),
    (evaluate, "protocol.num_prompts=3", "num_prompts is 3, expected 1 to 2"),
    (
        evaluate,
        "methods.names=[dreamboth,hyperdreambooth]",
        "unknown method 'dreamboth', expected some of",
    ),
    (evaluate, "instance_prompt=somebody", "the instance prompt 'somebody' has no .V., the word whose embedding"),
    (search, "methods.names=[dreamboth]", "unknown method 'dreamboth', expected some of"),
    (search, "methods.names=[oracle]", "grids has no field for oracle, expected one at least"),
    (evaluate, "protocol.num_identities=0", "num_identities is 0 .*expected at least 1"),
    (evaluate, "protocol.num_identities=11", "num_identities is 11, but faceworld has 10 test people"),
    (evaluate, "hypernet=nowhere", "nowhere.* is missing"),
    (evaluate, "hypernet=foreign", "foreign was trained on the base 0000, not on base "),
    (generate, "subject=nowhere.safetensors", "no file nowhere.safetensors"),
    (generate, "subject=face.png", "face.png starts with .* no safetensors file"),
    (generate, "subject=pickle.safetensors", "pickle.safetensors is a pickled checkpoint and was not read"),
    (generate, "subject=nan.safetensors", "nan.safetensors: theta has 1 values? .*not finite"),
    (generate, "subject=stranger.safetensors", "stranger.safetensors belongs to base 0000 .*, expected [0-9a-f]{16}"),
    (inspect, "", "give either subject=.* or base="),
    (inspect, "subject=torn.safetensors", "torn.safetensors is cut off"),
    (inspect, "base=empty", "empty lacks unet/config.json"),
    (faceworld, "splits=[test,dev] root=data", "unknown split 'dev', expected train, val, test"),
    (faceworld, "resolution=7", "resolution is 7, expected an even number of at least 16"),
]


@pytest.fixture(scope="module")
def files(tiny_weights, tmp_path_factory) -> dict[str, bytes]:
    """Pictures and subjects' files, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "torn.png")
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:4000])
    Image.new("RGB", (64, 64), "gray").save(folder / "wall.png")
    (folder / "notes.png").write_text("no picture\n")
    world = FaceWorld(resolution=64)
    to_pil(world.render([(world.identity(0), world.view(0, 0))])[0]).save(folder / "face.png")
    for name in ("pickle.safetensors", "pickle.ckpt"):
        torch.save({"theta": torch.zeros(1)}, folder / name)
    diffusion = StableDiffusion.from_pretrained(tiny_weights / "base")
    layout = Layout.from_models(diffusion.components, a=4, b=3)
    subject = Subject(layout.initial_theta(), layout, {"base": diffusion.name, "base_digest": diffusion.digest})
    content = subject.save(folder / "good.safetensors").read_bytes()
    (folder / "torn.safetensors").write_bytes(content[:-8])
    (folder / "nan.safetensors").write_bytes(content[:-4] + np.float32("nan").tobytes())
    Subject(layout.initial_theta(), layout, {"base_digest": "0000"}).save(folder / "stranger.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def room(call, files, tiny_weights, tmp_path, monkeypatch) -> Path:
    """The folder that experiments are called in, with those files."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))  # no ~/.netrc
    (tmp_path / "empty").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    about = json.loads((tiny_weights / "hypernet" / "config.json").read_text())
    shutil.copytree(tiny_weights / "hypernet", tmp_path / "foreign")
    (tmp_path / "foreign" / "config.json").write_text(json.dumps({**about, "base_digest": "0000"}))
    return tmp_path


def refused(call, capsys, experiment, words: str) -> str:
    """The sentence with which an experiment refuses; checks that it is one and that no file is new."""
    before = sorted(Path().rglob("*"))
    assert call(experiment, *words.split()) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert sorted(Path().rglob("*")) == before
    return said[0]


@pytest.mark.parametrize(("name", "message"), PICTURES.items())
def test_a_reference_that_cannot_be_used_is_refused(name, message, call, room, tiny_weights, capsys):
    words = f"reference={name} hypernet={tiny_weights}/hypernet"
    assert re.search(message, refused(call, capsys, personalize, words))


@pytest.mark.parametrize(("experiment", "words", "message"), WORDS, ids=[f"{m.__name__[12:]} {w}" for m, w, _ in WORDS])
def test_what_cannot_be_done_is_said_in_one_sentence(experiment, words, message, call, room, tiny_weights, capsys):
    if experiment in (personalize, evaluate) and "hypernet=" not in words:
        words += f" hypernet={tiny_weights}/hypernet"
    assert re.search(message, refused(call, capsys, experiment, words))


def test_thetas_of_another_layout_are_refused_with_both_digests(call, room, capsys):
    assert call(preoptimize, "faces.num_identities=1", "lidb.a=3") == 0
    sentence = refused(call, capsys, pretrain, "beta=1 thetas=outputs/preoptimize")
    assert re.search("thetas-00000.safetensors belongs to layout [0-9a-f]{64}, expected [0-9a-f]{64}", sentence)


def test_a_full_disk_leaves_the_earlier_file_and_no_other(call, room, tiny_weights, monkeypatch, capsys):
    (room / "me.safetensors").write_bytes(b"earlier")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    words = ["reference=face.png", "output=me.safetensors", "overwrite=true", f"hypernet={tiny_weights}/hypernet"]
    assert call(personalize, *words) == 2
    assert "could not save" in (said := capsys.readouterr().err) and "No space left on device" in said
    assert (room / "me.safetensors").read_bytes() == b"earlier"
    assert list(room.glob("*.tmp")) + list(room.glob(".*.tmp")) + list(room.glob("*.png.tmp")) == []


def test_interrupted_rendering_keeps_whole_files_and_goes_on(call, room, monkeypatch):
    real, calls = dataset._write_file, []

    def interrupted(*args) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(dataset, "_write_file", interrupted)
    words = [
        "root=data",
        "resolution=64",
        "views_per_identity=1",
        "num_identities=9",
        "splits=[train]",
        "num_workers=0",
    ]
    assert call(faceworld, *words) == 130
    assert [path.name for path in Path("data").rglob("*.npy")] == ["people-00000-views-00.npy"]
    assert call(faceworld, *words) == 0
    assert len(calls) == 3
