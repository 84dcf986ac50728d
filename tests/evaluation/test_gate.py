"""The gate's words against people made up for it, and what it sees in pictures."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import faceworld, gate, personalize
from hdb.evaluation.gate import Gate, GateObservations, observe, separation_auc
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
        (one(0.78), True, "fit: good, more like the photo than those of 75% of 20 people"),
        (one(0.1), False, "fit: poor, .*10% of 20 .*too far from the photo"),
        (one(0.9, face=False), False, "no face in 1 of 1 previews that should show one"),
        (one(0.9, spread=0.01), False, "the prompt is lost"),
    ],
)
def test_a_verdict_says_where_a_person_stands_and_what_is_wrong(measured, observed, fits, words):
    verdict = measured.judge(PROMPTS, observed)
    assert verdict.fits == fits
    assert re.search(words, verdict.words), verdict.words


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
    before = Path("mine/gate.json").read_bytes()
    assert call(gate, *words, "split=test") == 0
    assert "best from worst fifth of 5 test people: AUC " in capsys.readouterr().out
    assert Path("mine/gate.json").read_bytes() == before

    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    person = ["reference=face.png", "hypernet=mine", "prompts=[a [V] face]", "output=me.safetensors"]
    stored["likeness"] = [[2.0]] * 5  # nobody is as like as they
    Path("mine/gate.json").write_text(json.dumps(stored))
    assert call(personalize, *person, "strict=true") == 3
    printed = capsys.readouterr().out
    assert "fit: poor, " in printed and "too far from the photo" in printed.splitlines()[-1]
    Path("mine/gate.json").write_text(json.dumps(stored | {"hypernet": "another"}))
    assert call(personalize, *person, "strict=true") == 0
    assert "fit: not known" in capsys.readouterr().out.splitlines()[-1]
