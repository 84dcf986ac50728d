"""The gate's words against people made up for it, and what it sees in pictures."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from experiments import faceworld, gate, personalize
from hdb.diffusion.sheet import save_image
from hdb.evaluation.appearance import KnownAppearances, describe_appearance
from hdb.evaluation.gate import Gate, GateObservations, compute_auc, observe, separation_auc
from hdb.faceworld.world import FaceWorld
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import compute_hypernet_digest

PROMPTS = ["a photo of a [V] face", "a [V] face, golden statue"]


@pytest.fixture
def measured() -> Gate:
    """Twenty people of likeness 0 to 1, whose photos show a face and whose statues mostly do not."""
    likeness = torch.linspace(0, 1, 20)[:, None].expand(-1, 2)
    faces = torch.ones(20, 2, dtype=torch.bool)
    faces[5:, 1] = False
    return Gate(PROMPTS, GateObservations(likeness, faces, torch.linspace(0.1, 0.3, 20)), hypernet="0")


def one(likeness: float, *, face: bool = True, spread: float = 0.2) -> GateObservations:
    faces = torch.tensor([[face, False]])
    return GateObservations(torch.full((1, 2), likeness), faces, torch.tensor([spread]))


@pytest.mark.parametrize(
    ("observed", "fits", "words"),
    [
        (one(0.78), True, "good, the previews are more like the photo than those of 75% of 20 measured people"),
        (one(0.1), False, "poor, too far from the photo: the previews are more like it than those of only 10% of 20"),
        (
            one(0.9, face=False),
            False,
            "poor, .* than those of 90% of 20 .*, but a detector finds no face in 1 of the 1",
        ),
        (one(0.9, spread=0.01), False, "poor, .*, but they hardly differ, so that the prompt is lost"),
        (one(0.1, face=False, spread=0.01), False, "poor, too far .*; a detector finds .* show one and they hardly"),
    ],
)
def test_a_verdict_says_where_a_person_stands_and_what_is_wrong(measured, observed, fits, words):
    verdict = measured.judge(PROMPTS, observed)
    assert verdict.fits == fits
    assert re.search(f"^fit: {words}", verdict.words), verdict.words


def test_photographs_are_told_from_renders_of_people_who_were_not_measured():
    """Faces of 25 px, which scikit-image has, are the photographs; an encoder and distances are all that is needed."""
    encoder = FaceEncoder.from_folder("hdb/faceworld/weights/encoder").eval()
    world = FaceWorld(resolution=64)
    renders = world.render([(world.identity(person), world.view(person, 0)) for person in range(50)])
    photographs = torch.from_numpy(data.lfw_subset()[:100:4]).float()[:, None].expand(-1, 3, -1, -1)
    known = KnownAppearances(describe_appearance(encoder, renders[:40])[:, None])
    foreign = known.distances(describe_appearance(encoder, photographs))
    assert compute_auc(foreign, known.distances(describe_appearance(encoder, renders[40:]))) >= 0.95
    assert (foreign > known.limit).float().mean() >= 0.9


def test_no_measured_person_is_foreign_to_the_others():
    features = torch.randn(12, 3, 8, generator=torch.Generator().manual_seed(0))
    known = KnownAppearances(features)
    for person in range(12):
        others = torch.cat([features[:person], features[person + 1 :]]).flatten(0, 1)
        scale = features.flatten(0, 1).std(0, correction=0)
        nearest = torch.cdist(features[person] / scale, others / scale).amin(1)
        assert (nearest <= known.limit + 1e-4).all()
    assert known.are_foreign(features[0] + 100).all() and not known.are_foreign(features[0]).any()


def test_of_prompts_that_were_not_measured_nothing_is_said(measured):
    verdict = measured.judge(
        ["a [V] face on the moon"], GateObservations(torch.zeros(1, 1), torch.zeros(1, 1).bool(), torch.zeros(1))
    )
    assert verdict.fits and "not known" in verdict.words


def test_a_gate_is_strict_json_and_loads_as_it_was_saved(measured, tiny_weights, tmp_path):
    hypernet = tmp_path / "mine"
    shutil.copytree(tiny_weights / "hypernet", hypernet)
    likeness = measured.observations.likeness.clone()
    likeness[3, 0] = float("nan")
    gate = replace(
        measured,
        observations=measured.observations._replace(likeness=likeness),
        hypernet=compute_hypernet_digest(hypernet),
    )
    json.loads(gate.save(hypernet).read_text(), parse_constant=pytest.fail)
    loaded = Gate.load_for(hypernet)
    assert loaded.prompts == gate.prompts
    for values, expected in zip(loaded.observations, gate.observations, strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-4, equal_nan=True)


def test_only_the_best_and_the_worst_fifth_count_for_separation_auc():
    truth = torch.arange(10.0)
    assert separation_auc(truth, truth) == 1.0 and separation_auc(-truth, truth) == 0.0
    muddled = truth.clone()
    muddled[2:8] = muddled[2:8].flip(0)
    assert separation_auc(muddled, truth) == 1.0


def test_a_photo_is_most_like_itself_and_equal_pictures_have_no_spread(tiny_weights):
    hypernet = HyperNet.from_folder(
        tiny_weights / "hypernet", encoder=FaceEncoder.from_folder(tiny_weights / "encoder")
    ).eval()
    world = FaceWorld(resolution=64)
    photos = world.render([(world.identity(person), world.view(person, 0)) for person in range(2)])
    swapped = observe(hypernet, photos, photos.flip(0)[:, None].repeat(1, 2, 1, 1, 1))
    same = observe(hypernet, photos, photos[:, None])
    torch.testing.assert_close(same.likeness, torch.ones(2, 1), rtol=0, atol=1e-5)
    assert (swapped.likeness < same.likeness).all() and swapped.faces.all()
    torch.testing.assert_close(swapped.spread, torch.zeros(2), rtol=0, atol=1e-6)


def test_a_gate_is_measured_stored_used_and_forgotten_with_other_weights(call, tiny_weights, capsys, tmp_path):
    shutil.copytree(tiny_weights / "hypernet", "mine")
    judge = f"recognizer={tiny_weights}/judges/recognizer"
    words = ["hypernet=mine", judge, "num_identities=5", "subjects_per_batch=5", "prompts=[a [V] face]"]
    assert call(gate, *words) == 0
    stored = json.loads(Path("mine/gate.json").read_text())
    assert stored["prompts"] == ["a [V] face"] and len(stored["likeness"]) == 5
    before = {path: path.read_bytes() for path in Path("mine").iterdir()}
    Path("photos").mkdir()
    save_image(Image.fromarray(data.astronaut()), "photos/astronaut.png")
    save_image(Image.new("RGB", (64, 64)), "photos/night.png")
    assert call(gate, *words, "split=test", "foreign=photos") == 0
    printed = capsys.readouterr().out
    assert "best from worst fifth of 5 test people: AUC " in printed
    assert re.search(r"skipped: no face found in photos/night.png.*\n1 foreign photos from .* AUC \d", printed)
    assert {path: path.read_bytes() for path in Path("mine").iterdir()} == before

    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    person = ["reference=face.png", "hypernet=mine", "prompts=[a [V] face]", "output=me.safetensors"]
    known = KnownAppearances.load(Path("mine/gate.safetensors"), hypernet=stored["hypernet"])
    KnownAppearances(known.features + 100).save(Path("mine/gate.safetensors"), hypernet=stored["hypernet"])
    assert call(personalize, *person, "strict=true") == 3
    sentence = capsys.readouterr().out.splitlines()[-1]
    assert sentence.startswith("fit: poor, as this photo is none of the base's world: ") and "good" not in sentence
    Path("mine/gate.safetensors").unlink()  # as beside the hypernetworks of earlier versions
    stored["likeness"] = [[2.0]] * 5  # nobody is as like as they
    Path("mine/gate.json").write_text(json.dumps(stored))
    assert call(personalize, *person, "strict=true") == 3
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("fit: poor, too far from the photo: ")
    Path("mine/gate.json").write_text(json.dumps(stored | {"hypernet": "another"}))
    assert call(personalize, *person, "strict=true") == 0
    assert "fit: not known" in capsys.readouterr().out.splitlines()[-1]
