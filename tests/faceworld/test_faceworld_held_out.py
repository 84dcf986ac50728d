"""No recipe and no recorded training of shipped weights uses a test identity, a held-out style or a held-out pair.

The parameters of the views prove it: nothing is rendered.
"""

import json
from functools import cache
from pathlib import Path

import pytest

from experiments.config import Preoptimize, Pretrain, TrainBase, load
from hdb.faceworld.people import FaceworldPeople
from hdb.faceworld.splits import SPLITS
from hdb.faceworld.view import CONTEXTS, HELD_OUT_PAIRS, HELD_OUT_STYLES, TRAINING_STYLES, View, sample_view

CONFIGS, WEIGHTS = Path("configs/faceworld"), Path("hdb/faceworld/weights")
TRAINED: dict[str, dict] = json.loads((WEIGHTS / "report.json").read_text())["trained"]
PARTS = ("autoencoder", "denoiser", "recognizer", "dino", "classifier")  # those with a record in report.json
HYPERNETWORKS = {"pretrain": Pretrain, "full": Pretrain, "preoptimize": Preoptimize}


@cache
def views_of(first: int, last: int, *, views: int) -> list[View]:
    """All styled views, and the plain and context views of the first 100 people.

    All views of the shipped recipe would take more than ten seconds, and every plain or context view is a photo.
    """
    people = range(first, last + 1)
    return [sample_view(0, p, v) for p in people for v in range(views) if v % 3 == 2 or p < first + 100]


def test_train_val_and_test_have_nobody_in_common():
    assert len(set().union(*SPLITS.values())) == sum(map(len, SPLITS.values())) == 2400


@pytest.mark.parametrize("name", ["base", "base-full"])
def test_no_view_of_the_shipped_recipes_is_of_a_held_out_style_or_pair(name):
    config = load(TrainBase, [str(CONFIGS / f"{name}.yaml")])
    people = SPLITS["train"][: config.num_identities]
    shown = {(v.style, v.context) for v in views_of(people[0], people[-1], views=config.views_per_identity)}
    every = {(style, context) for style in ("photo", *TRAINING_STYLES) for context in CONTEXTS}
    assert shown == every - set(HELD_OUT_PAIRS)
    assert not {style for style, _ in shown} & set(HELD_OUT_STYLES)


@pytest.mark.parametrize("part", PARTS)
def test_the_recorded_pictures_of_a_shipped_part_agree_with_the_world(part):
    record = TRAINED[part]["seen"]
    first, last = record["identities"]
    assert {first, last} <= set(SPLITS["train"]) and first <= last
    if part in ("encoder", "dino"):  # plain views only
        assert (record["styles"], record["pairs"]) == (["photo"], 1)
        return
    shown = {(v.style, v.context) for v in views_of(first, last, views=record["pictures"] // (last + 1 - first))}
    assert set(record["styles"]) == {style for style, _ in shown}
    assert not set(record["styles"]) & set(HELD_OUT_STYLES)
    assert record["pairs"] == len(shown - set(HELD_OUT_PAIRS)) == len(shown)


def test_the_shipped_hypernetwork_was_trained_on_no_test_identity():
    first, last = TRAINED["hypernetwork"]["seen"]["identities"]
    assert {first, last} <= set(SPLITS["train"])


@pytest.mark.parametrize("name", HYPERNETWORKS)
def test_the_people_of_a_shipped_hypernetwork_recipe_are_training_people(name):
    faces = load(HYPERNETWORKS[name], [str(CONFIGS / f"{name}.yaml")]).faces
    splits = FaceworldPeople(faces).splits
    train, val, test = ({int(person) for person in names} for names in (splits.train, splits.val, splits.test))
    assert len(train) == faces.num_identities and train <= set(SPLITS["train"]) and val <= set(SPLITS["val"])
    assert test == set(SPLITS["test"])
