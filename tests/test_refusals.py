"""Bad input is refused in one sentence that names it, before a network is read, and nothing on disk changes."""

import errno
import json
import os
import shutil
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import (
    ablate,
    base,
    evaluate,
    export,
    faceworld,
    generate,
    inspect,
    personalize,
    preoptimize,
    prepare,
    pretrain,
    search,
)
from experiments import config as schemas
from hdb.diffusion.sheet import save_image, to_pil
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld import dataset
from hdb.faceworld.world import FaceWorld
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.limits import check_limits, get_limit

LONG = "n" * 300
PERSON = "reference=me.png output=out/me.safetensors "
GRID = 'methods.names=[k1] grids={"k1":{"methods.finetuning.lr":[0.1]}}'
SHARDS = "source=folders root=photos output=o "

# (command, words, what the sentence must name)
BEFORE_NETWORKS = [
    # the words
    (personalize, "subject=me.png", "subject known here"),
    (personalize, "", "reference= must be given"),
    (personalize, PERSON + "sampling.num_inference_steps=many", "sampling.num_inference_steps many"),
    (personalize, PERSON + "wandb.mode=online", "wandb.mode=online WANDB_API_KEY"),
    (personalize, PERSON + "dtype=bfloat16", "dtype bfloat16 float16 float32"),
    (personalize, PERSON + "accelerator=tpu", "accelerator=tpu"),
    (pretrain, "processes.devices=two", "devices=two"),
    (pretrain, "processes.strategy=fsdpp", "strategy=fsdpp"),
    (pretrain, "alpha=0", "alpha beta 0"),
    (pretrain, "beta=1", "beta 1.0 targets"),
    (pretrain, "gamma=1 hypernet.freeze_encoder=false", "gamma 1.0 frozen encoder"),
    (pretrain, "hypernet.num_heads=3", "hypernet.width 8 hypernet.num_heads 3"),
    (pretrain, "cached=true faces.source=folders", "cached=true faces.source=shards faceworld"),
    (pretrain, "cached=true faces.source=shards gamma=0 hypernet.freeze_encoder=false", "cached=true freeze_encoder"),
    (pretrain, "instance_prompt=face", "instance_prompt face [V]"),
    (pretrain, "schedule.best_metric=val/own_better faces.num_val_identities=1", "faces.num_val_identities 1 2"),
    (pretrain, "faces.source=nowhere", "faces.source nowhere folders"),
    (pretrain, "faces.num_identities=0", "0 train 20"),
    (evaluate, "protocol.num_prompts=3", "num_prompts 3 2"),
    (evaluate, "methods.names=[dreamboth,hyperdreambooth]", "dreamboth dreambooth"),
    (evaluate, "methods.names=[only_hyper]", "only_hyper hyperdreambooth"),
    (evaluate, "protocol.identity_guidance_scales.dreamboth=null", "dreamboth dreambooth"),
    (evaluate, "protocol.identity_guidance_scales.dreambooth=-1", "identity_guidance_scales.dreambooth -1"),
    (evaluate, "sampling.identity_guidance_end=1.5", "identity_guidance_end 1.5"),
    (evaluate, "protocol.num_identities=0", "num_identities 0"),
    (evaluate, "protocol.num_identities=11", "num_identities 11 10"),
    (evaluate, "dtype=int8", "dtype int8"),
    (search, GRID + " protocol.identity_guidance_scales.dreamboth=2", "dreamboth dreambooth"),
    (search, "methods.names=[]", "grids"),
    (search, "methods.names=[dreamboth]", "dreamboth"),
    (search, "methods.names=[oracle]", "grids oracle"),
    (search, 'grids={"k1":{"methods.finetuning.lr":[]}}', "grids k1"),
    (search, 'grids={"k1":{"sampling.guidance_scale":[1,2]}}', "grids sampling.guidance_scale"),
    (search, 'methods.names=[k1] grids={"k1":{"methods.finetuning.rate":[1]}}', "methods.finetuning.rate known here"),
    (generate, "subject=[]", "subject"),
    (generate, "subject=[s.safetensors,s.safetensors]", "s.safetensors different"),
    (generate, "subject=s.safetensors weights=[1.0]", "weights mix=true"),
    (inspect, "", "subject= base="),
    (faceworld, "splits=[test,dev] root=data", "dev train"),
    (faceworld, "resolution=7 root=data", "resolution 7 16"),
    (faceworld, "portrait=you.jpg", "you.jpg .png"),
    # settings that have moved
    (evaluate, "num_identities=2", "num_identities protocol.num_identities"),
    (evaluate, "methods=[only_hyper]", "methods methods.names"),
    (evaluate, "finetuning.lr=1", "finetuning methods.finetuning"),
    (evaluate, "devices=2", "devices processes.devices"),
    (pretrain, "max_steps=2", "max_steps schedule.max_steps"),
    (pretrain, "preview_prompts=[a]", "preview_prompts preview.prompts"),
    (pretrain, "sampling.num_inference_steps=2", "sampling preview.sampling"),
    # what is not there, or not what it should be
    (personalize, "reference=you.png", "you.png"),
    (personalize, "reference=notes.png", "notes.png picture"),
    (personalize, "reference=torn.png", "torn.png truncated"),
    (personalize, PERSON + "hypernet=nowhere/last.ckpt", "nowhere/last.ckpt"),
    (personalize, PERSON + "hypernet=nowhere", "nowhere/config.json"),
    (personalize, PERSON + "encoder=nowhere/encoder", "nowhere/encoder/config.json"),
    (personalize, PERSON, "hypernetwork shipped hypernet= method=no_hyper"),
    (evaluate, "judges.dino=nowhere/dino hypernet=weights", "weights/config.json"),
    (evaluate, "protocol.prompts=nowhere.txt", "nowhere.txt"),
    (evaluate, "hypernet=nowhere", "nowhere/config.json"),
    (search, GRID + " hypernet=nowhere", "nowhere/config.json"),
    (pretrain, "beta=1 thetas=run", "thetas- run preoptimize"),
    (pretrain, "judges.recognizer=nowhere/judge", "recognizer nowhere/judge"),
    (pretrain, "init_from=nowhere", "nowhere/config.json"),
    (pretrain, "faces.source=folders faces.root=empty", "empty picture"),
    (generate, "subject=nobody.safetensors", "nobody.safetensors"),
    (generate, "subject=me.png", "me.png safetensors"),
    (generate, "subject=pickle.safetensors", "pickle.safetensors pickled"),
    (generate, "subject=nan.safetensors", "nan.safetensors finite"),
    (inspect, "subject=torn.safetensors", "torn.safetensors cut off"),
    (inspect, "base=empty", "empty unet/config.json"),
    (prepare, SHARDS + "cache.base=nowhere", "nowhere"),
    (prepare, SHARDS + "cache.encoder=vit_tall", "vit_tall"),
    # the output would destroy something
    (personalize, "reference=me.png output=notes.safetensors", "notes.safetensors overwrite=true"),
    (personalize, "reference=me.png output=s.safetensors", "s.safetensors another photo overwrite=true"),
    (export, "subject=s.safetensors output=s.safetensors", "s.safetensors subject"),
    (export, "subject=s.safetensors output=notes.safetensors", "notes.safetensors overwrite=true"),
    (generate, "subject=s.safetensors output=drawn", "drawn/grid.png overwrite=true"),
    (faceworld, "portrait=me.png", "me.png overwrite=true"),
    (pretrain, "output=photos", "photos ada"),
    (pretrain, "output=run", "run config.yaml"),
    (evaluate, "output=run protocol.prompts=run/prompts.txt", "run run/prompts.txt"),
    (search, GRID + " output=run protocol.prompts=run/prompts.txt", "run run/prompts.txt"),
    (preoptimize, "output=. faces.splits=photos/splits.json", "photos/splits.json faces.splits"),
    (prepare, "source=folders root=photos output=./photos/../photos", "photos root"),
    (base, "weights=weights parts=[encoder]", "weights/encoder"),
    # the output cannot be written
    (personalize, "reference=me.png output=me.png", "me.png .safetensors"),
    (personalize, f"reference=me.png output={LONG}.safetensors", "312 255"),
    (personalize, "reference=me.png output=/proc/me.safetensors", "/proc"),
    (personalize, "reference=me.png output=me.png/me.safetensors", "me.png"),
    (generate, f"subject=s.safetensors output={LONG}", "300 255"),
    (faceworld, f"portrait={LONG}.png", "304 255"),
    (faceworld, "root=me.png", "me.png folder"),
    (pretrain, f"output=runs/{LONG}", "300 255"),
    (pretrain, "output=me.png", "me.png folder"),
    (pretrain, "output=/proc/run", "/proc/run"),
    (search, GRID + " output=me.png", "me.png folder"),
    (prepare, "source=folders root=photos output=me.png", "me.png folder"),
]
WITH_THE_BASE = [
    (personalize, "reference=wall.png", "wall.png no face 16"),
    (personalize, PERSON + "base.path=nowhere", "nowhere folder"),
    (personalize, PERSON + "base.revision=main", "revision main hub"),
    (personalize, PERSON + "base.path=pickle.ckpt", "pickle.ckpt pickled"),
    (personalize, PERSON + "hypernet=foreign", "foreign 0000"),
    (evaluate, "hypernet=foreign", "foreign 0000"),
    (evaluate, "instance_prompt=somebody methods.names=[textual_inversion,hyperdreambooth]", "instance somebody [V]"),
    (generate, "subject=stranger.safetensors", "stranger.safetensors 0000"),
]


@pytest.fixture(scope="module")
def files(tiny_weights, tmp_path_factory) -> dict[str, bytes]:
    """Pictures and subjects' files, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    world = FaceWorld(resolution=64)
    save_image(to_pil(world.render([(world.identity(0), world.view(0, 0))])[0]), folder / "face.png")
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(folder / "me.png")
    Image.new("RGB", (64, 64), "gray").save(folder / "wall.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "torn.png")
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:4000])
    (folder / "notes.png").write_text("no picture\n")
    for name in ("pickle.safetensors", "pickle.ckpt"):
        torch.save({"theta": torch.zeros(1)}, folder / name)
    diffusion = StableDiffusion.from_pretrained(tiny_weights / "base")
    layout = Layout.from_models(diffusion.components, a=4, b=3)
    subject = Subject(layout.initial_theta(), layout, {"base": diffusion.name, "base_digest": diffusion.digest})
    content = subject.save(folder / "s.safetensors").read_bytes()
    (folder / "torn.safetensors").write_bytes(content[:-8])
    (folder / "nan.safetensors").write_bytes(content[:-4] + np.float32("nan").tobytes())
    Subject(layout.initial_theta(), layout, {"base_digest": "0000"}).save(folder / "stranger.safetensors")
    (folder / "notes.safetensors").write_bytes(b"mine")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def room(call, files, tiny_weights, tmp_path, monkeypatch) -> Path:
    """The folder that commands are called in, with those files and things of the user's."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))  # no ~/.netrc
    (tmp_path / "empty").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("photos/ada/1.jpg", "drawn/grid.png", "run/notes.txt", "run/prompts.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"a [V] face\na [V] face\n")
    Path("photos/splits.json").write_text('{"train": ["ada"], "val": [], "test": []}')
    Path("run/config.yaml").write_text("seed: 5\n")
    Path("weights/encoder").mkdir(parents=True)
    Path("weights/encoder/model.safetensors").write_bytes(b"mine")
    config = json.loads((tiny_weights / "hypernet" / "config.json").read_text())
    shutil.copytree(tiny_weights / "hypernet", tmp_path / "foreign")
    (tmp_path / "foreign" / "config.json").write_text(json.dumps({**config, "base_digest": "0000"}))
    return tmp_path


def snapshot() -> dict[Path, bytes | None]:
    """Everything below the current folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def check_refusal(call, capsys, command: ModuleType, words: str, named: str) -> None:
    """A refusal: exit code 2, one line on stderr that names what is wrong, nothing changed."""
    before = snapshot()
    assert call(command, *words.split()) == 2
    errors = capsys.readouterr().err
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in errors
    assert [name for name in named.split() if name not in sentence] == [], sentence
    assert snapshot() == before


@pytest.mark.parametrize(("command", "words", "named"), BEFORE_NETWORKS)
def test_bad_input_is_refused_before_a_network_is_read(command, words, named, call, room, monkeypatch, capsys):
    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network was read before the input was checked")

    monkeypatch.setattr(StableDiffusion, "from_pretrained", read)
    check_refusal(call, capsys, command, words, named)


@pytest.mark.parametrize(("command", "words", "named"), WITH_THE_BASE)
def test_what_only_the_base_can_tell_is_refused_alike(command, words, named, call, room, tiny_weights, capsys):
    if command is not generate and "hypernet=" not in words:
        words += f" hypernet={tiny_weights}/hypernet"
    check_refusal(call, capsys, command, words, named)


def limited_settings(schema: type, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, limit) of every setting that has one."""
    found = []
    for name, hint in get_type_hints(schema).items():
        entry = schema.__dataclass_fields__[name]
        if is_dataclass(hint):
            found += limited_settings(hint, f"{prefix}{name}.")
        elif get_limit(entry) is not None:
            found.append((f"{prefix}{name}", get_limit(entry)))
    return found


SCHEMAS = [
    getattr(schemas, name) for name in schemas.__all__ if name[0].isupper() and name not in ("OnBase", "Variant")
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_limit_is_enforced_and_named(schema):
    for name, limit in limited_settings(schema):
        config = schema()
        owner = config
        *parents, last = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        bad = next(value for value in ([], -1, 0, 1e9, "nonsense", ["nonsense"], "ddp_spawn") if refuses(limit, value))
        setattr(owner, last, bad)
        with pytest.raises(ValueError, match=f"^{name} is ") as refusal:
            check_limits(config)
        assert repr(bad) in str(refusal.value)


def refuses(limit: Any, value: Any) -> bool:
    try:
        return not limit.allows(value)
    except (AttributeError, TypeError):  # a value of another type
        return False


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(value, call, room, capsys):
    check_refusal(call, capsys, personalize, PERSON + f"finetuning.lr={value}", f"finetuning.lr {value}")
    check_refusal(call, capsys, generate, f"subject=s.safetensors scale={value}", f"scale {value}")


def test_thetas_of_another_layout_are_refused_with_both_digests(call, room, tiny_diffusion, capsys):
    assert call(preoptimize, "faces.num_identities=1", "lidb.a=3") == 0
    capsys.readouterr()
    check_refusal(call, capsys, pretrain, "beta=1 thetas=outputs/preoptimize", "thetas-00000.safetensors layout")


def test_variants_of_an_ablation_have_a_folder_each(call, capsys):
    configs = Path(__file__).parents[1] / "configs" / "faceworld"
    yamls = [f"{stage}={configs}/{stage}.yaml" for stage in ("pretrain", "evaluate")]
    for variants, named in (("{a b: {}, a-b: {}}", "'a-b' and another would share"), ("{../x: {}}", "called '../x'")):
        assert call(ablate, *yamls, f"variants={variants}") == 2
        assert named in capsys.readouterr().err


def test_what_an_earlier_call_wrote_is_replaced_and_anything_else_only_on_request(call, room):
    for output, words in (("l.safetensors", []), ("l.safetensors", []), ("notes.safetensors", ["overwrite=true"])):
        assert call(export, "subject=s.safetensors", f"output={output}", *words) == 0
    for portrait, words in (("new.png", []), ("new.png", []), ("me.png", ["overwrite=true"])):
        assert call(faceworld, f"portrait={portrait}", "resolution=64", "identity=0", *words) == 0


def test_a_full_disk_leaves_the_earlier_file_and_no_other(call, room, tiny_weights, monkeypatch, capsys):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    words = ["reference=face.png", "output=notes.safetensors", "overwrite=true", f"hypernet={tiny_weights}/hypernet"]
    assert call(personalize, *words) == 2
    errors = capsys.readouterr().err
    assert "could not save" in errors and "No space left on device" in errors
    assert (room / "notes.safetensors").read_bytes() == b"mine"
    assert list(room.glob("*.tmp")) + list(room.glob(".*.tmp")) == []


def test_interrupted_rendering_keeps_whole_files_and_is_resumed(call, room, monkeypatch):
    write_file, calls = dataset._write_file, []

    def interrupted(*args) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_file(*args)

    monkeypatch.setattr(dataset, "_write_file", interrupted)
    words = ["root=data", "resolution=64", "views_per_identity=1", "num_identities=9", "splits=[train]"]
    assert call(faceworld, *words, "num_workers=0") == 130
    assert [path.name for path in Path("data").rglob("*.npy")] == ["people-00000-views-00.npy"]
    assert call(faceworld, *words, "num_workers=0") == 0
    assert len(calls) == 3
