"""hdb personalize: what it does with a photo, which files it may replace, and what works without a hypernetwork."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments import export, generate, personalize
from experiments.personalize import SHEET
from hdb.diffusion.sheet import save_image, to_pil
from hdb.faceworld.world import FaceWorld
from hdb.lidb.file import Subject


@pytest.fixture
def photos(call) -> dict[str, bytes]:
    """ann.png and bob.png, face crops; large.png, in which Ann's face is a part."""
    world = FaceWorld(resolution=128)
    for number, name in enumerate(("ann", "bob")):
        save_image(to_pil(world.render([(world.identity(number), world.view(number, 0))])[0], size=256), f"{name}.png")
    large = Image.new("RGB", (900, 600), "gray")
    large.paste(Image.open("ann.png"), (500, 200))
    large.save("large.png")
    return {name: Path(name).read_bytes() for name in ("ann.png", "bob.png", "large.png")}


def test_a_photo_is_cropped_and_a_face_crop_keeps_its_framing(call, photos, tiny_weights, capsys):
    hypernet = f"hypernet={tiny_weights}/hypernet"
    thetas = {}
    for name, words in {
        "ann": ["reference=ann.png"],
        "kept": ["reference=ann.png", "crop=false"],
        "large": ["reference=large.png"],
        "cut": ["reference=large.png", "crop=true"],
    }.items():
        assert call(personalize, *words, f"output={name}.safetensors", hypernet) == 0
        printed = capsys.readouterr().out
        thetas[name] = Subject.load(f"{name}.safetensors").theta
        assert ("ann.png: a face crop, whose framing is kept (crop=true" in printed) == (name == "ann")
        assert ("large.png: the face is cut out (crop=false" in printed) == (name == "large")
    assert torch.equal(thetas["ann"], thetas["kept"]) and torch.equal(thetas["large"], thetas["cut"])
    assert not torch.equal(thetas["ann"], thetas["large"])


def test_no_photo_is_ever_replaced_by_the_sheet_of_pictures(call, photos, tiny_weights):
    hypernet = f"hypernet={tiny_weights}/hypernet"
    shutil.copy("ann.png", "ann.jpg")  # beside ann.png, which is another picture of hers
    for reference in ("ann.png", "ann.jpg"):
        for _ in range(2):
            assert call(personalize, f"reference={reference}", "output=ann.safetensors", hypernet) == 0
            assert Image.open("ann-pictures.png").info["Description"] == SHEET
        assert {name: Path(name).read_bytes() for name in photos} == photos
    assert call(personalize, "reference=bob.png", "output=new.safetensors", hypernet) == 0
    assert Image.open("new.png").info["Description"] == SHEET
    assert call(personalize, "reference=bob.png", "output=new.safetensors", hypernet) == 0
    assert not Path("new-pictures.png").exists()


def test_the_file_of_another_person_is_replaced_only_on_request(call, photos, tiny_weights, capsys):
    hypernet = f"hypernet={tiny_weights}/hypernet"
    Path("a").mkdir()
    Path("b").mkdir()
    shutil.copy("ann.png", "a/me2.png")
    shutil.copy("bob.png", "b/me2.png")
    words = ["output=me2.safetensors", hypernet]
    assert call(personalize, "reference=a/me2.png", *words) == 0
    ann = Path("me2.safetensors").read_bytes()
    for refused in (["reference=b/me2.png"], ["reference=a/me2.png", "face=2"], ["reference=a/me2.png", "seed=-1"]):
        assert call(personalize, *refused, *words) == 2
    assert call(personalize, "reference=a/me2.png", "more_references=[b/me2.png]", *words) == 2
    assert "me2.safetensors is of another photo: expected another output, or overwrite=true" in capsys.readouterr().err
    assert Path("me2.safetensors").read_bytes() == ann
    Image.open("a/me2.png").save("renamed.png")  # the same pixels in another file
    assert call(personalize, "reference=renamed.png", *words, "seed=1") == 0
    assert call(personalize, "reference=b/me2.png", *words, "overwrite=true") == 0


def test_without_a_hypernetwork_finetuning_alone_makes_a_file_that_is_drawn_and_exported(
    call, photos, tiny_base, monkeypatch, capsys
):
    shutil.copytree(tiny_base, "mine")
    words = ["base.path=mine", "reference=ann.png", "output=ann.safetensors"]
    assert call(personalize, *words) == 2
    error = capsys.readouterr().err
    assert "the shipped hypernetwork is for the shipped base, not for mine" in error and "method=no_hyper" in error
    assert call(personalize, *words, "method=no_hyper") == 0
    assert "fit: not known" in capsys.readouterr().out
    subject = Subject.load("ann.safetensors")
    assert subject.layout.free and subject.layout.rank == 4
    assert call(generate, "base.path=mine", "subject=ann.safetensors", "num_pictures=1") == 0
    assert call(export, "subject=ann.safetensors", "output=lora.safetensors") == 0


def test_a_prediction_alone_is_a_smaller_file(call, photos, tiny_weights):
    words = ["reference=ann.png", f"hypernet={tiny_weights}/hypernet"]
    assert call(personalize, *words, "output=whole.safetensors") == 0
    assert call(personalize, *words, "output=alone.safetensors", "method=only_hyper") == 0
    assert Path("alone.safetensors").stat().st_size < Path("whole.safetensors").stat().st_size
    assert Subject.load("alone.safetensors").layout.rank == 1


def test_the_folder_of_a_run_is_a_hypernetwork(call, photos, tiny_weights):
    Path("run").mkdir()
    shutil.copytree(tiny_weights / "hypernet", "run/hypernet")
    for number, hypernet in enumerate((f"{tiny_weights}/hypernet", "run", "run/hypernet")):
        assert call(personalize, "reference=ann.png", f"output={number}.safetensors", f"hypernet={hypernet}") == 0
    thetas = [Subject.load(f"{number}.safetensors").theta for number in range(3)]
    assert torch.equal(thetas[0], thetas[1]) and torch.equal(thetas[0], thetas[2])


def test_nothing_of_libraries_is_printed(call, photos, tiny_weights, capfd):
    assert call(personalize, "reference=ann.png", "output=me.safetensors", f"hypernet={tiny_weights}/hypernet") == 0
    printed = "".join(capfd.readouterr())
    for words in ("Epoch", "Loading weights", "litlogger", "GPU available", "base base"):
        assert words not in printed, printed
