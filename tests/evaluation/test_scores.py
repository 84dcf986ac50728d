"""Scores that are shares of pictures: what was asked for, and who is recognized."""

import numpy as np
import pytest
import torch
from tiny import tiny_judges

from experiments.people import expected_attributes
from hdb.evaluation import scores, tables
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import PictureBatch
from hdb.evaluation.summary import summarize
from hdb.faceworld.view import HELD_OUT_STYLES
from hdb.metrics.judges import load_classifier
from hdb.metrics.table import METRICS

PROMPTS = ["a photo of a face in the snow", "a black and white photo of a face", "a face wearing a hat, oil painting"]


@pytest.fixture(scope="module")
def judges(tiny_weights):
    return tiny_judges(tiny_weights)


@pytest.fixture(scope="module")
def attributes(tiny_weights):
    return load_classifier(f"{tiny_weights}/judges/classifier")


def test_a_picture_is_recognized_where_its_own_person_is_the_nearest_and_it_has_a_face():
    gallery = torch.eye(4)
    pictures = torch.stack([gallery[[0, 1]], torch.stack([gallery[1], torch.zeros(4)]), gallery[[2, 3]]])
    pictures[0, 0] = torch.tensor([0.6, 0.5, 0.4, 0.3])
    nearest = [scores.is_nearest(generated, gallery, person=person) for person, generated in enumerate(pictures)]
    assert torch.stack(nearest).tolist() == [[True, False], [True, False], [True, False]]
    assert not scores.is_nearest(torch.zeros(2, 4), gallery, person=0).any()  # no face: not the first person either


def test_what_prompts_ask_for_is_known_of_captions_only():
    captions, other = ["a photo of a [V] face in the snow", "a [V] face, oil painting"], ["a [V] face as a firefighter"]
    expected = expected_attributes(captions, source="faceworld", classifier=None)
    assert [labels["style"] for labels in expected.per_prompt] == ["photo", "oil"]
    assert expected_attributes(captions, source="flat", classifier="folder").per_prompt[0]["context"] == "snow"
    assert expected_attributes(captions, source="flat", classifier=None) is None
    assert expected_attributes(other, source="faceworld", classifier=None) is None
    with pytest.raises(ValueError, match="unknown word 'as' .*expected such prompts, or judges.classifier=null"):
        expected_attributes(other, source="faceworld", classifier="folder")


def test_prompts_are_of_photos_or_of_styles_and_of_one_kind_where_nobody_knows():
    expected = expected_attributes(PROMPTS, source="faceworld", classifier=None)
    assert scores.kinds_of_prompts(expected, num_prompts=3) == {"photo": [0], "styled": [1, 2]}
    photo = scores.ExpectedAttributes(expected.per_prompt[:1])
    assert scores.kinds_of_prompts(photo, num_prompts=1) == {"photo": [0]}
    assert scores.kinds_of_prompts(None, num_prompts=3) == {"all": [0, 1, 2]}


def test_shares_are_counted_person_by_person(judges, attributes):
    num_people, num_prompts, num_pictures = 2, 3, 2
    shape = (num_people, num_prompts, num_pictures)
    pictures = torch.rand(*shape, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    people = UnseenPeople(["0", "1"], pictures[:, :1, 0], pictures[:0, 0, 0])
    predicted = {name: np.reshape(labels, shape) for name, labels in attributes.predict(pictures.flatten(0, 2)).items()}
    # A prompt asks for what its first picture of the first person shows, except for one accessory.
    per_prompt = [{name: str(labels[0, prompt, 0]) for name, labels in predicted.items()} for prompt in range(3)]
    per_prompt[1]["accessory"] = "nothing of the kind"

    def score(labels: list[dict[str, str]] | None) -> scores.PersonScores:
        expected = scores.ExpectedAttributes(labels, unjudged_styles=HELD_OUT_STYLES) if labels else None
        scorer = scores.Scorer(judges, PROMPTS, expected, attributes if labels else None)
        prompts = [0, 0, 1, 1, 2, 2]
        batches = [  # cut between the pictures of a prompt
            PictureBatch(person, prompts[rows], pictures[person].flatten(0, 1)[rows])
            for person in range(num_people)
            for rows in (slice(0, 3), slice(3, 6))
        ]
        return scorer.score(batches, scorer.embed_references(people))

    def expected_shares(attribute: str, prompts: slice = slice(None)) -> np.ndarray:
        labels = np.array([labels[attribute] for labels in per_prompt[prompts]])[None, :, None]
        return (predicted[attribute][:, prompts] == labels).mean((1, 2))

    per_person = score(per_prompt)
    for attribute in scores.PROMPTED:
        assert per_person[f"prompted/{attribute}"] == pytest.approx(expected_shares(attribute))
    assert per_person["prompted/style"][0] >= 0.5 and per_person["prompted/accessory"][0] <= 4 / 6

    gallery = judges["recognizer"].embed_images(pictures[:, 0, 0])
    vectors = judges["recognizer"].embed_images(pictures.flatten(0, 2)).unflatten(0, (2, 6))
    recognized = ((vectors @ gallery.T).argmax(-1) == torch.arange(2)[:, None]).double().mean(1).numpy()
    photo_share = sum(labels["style"] == "photo" for labels in per_prompt) / num_prompts
    weights = {"rank_1/photo": photo_share, "rank_1/styled": 1 - photo_share}
    mean = sum(weight * per_person[name] for name, weight in weights.items() if name in per_person)
    assert mean == pytest.approx(recognized)
    without_attributes = score(None)
    assert without_attributes["rank_1/all"] == pytest.approx(recognized)
    assert not any(name.startswith("prompted") for name in without_attributes)

    per_prompt[2]["style"] = HELD_OUT_STYLES[0]
    assert score(per_prompt)["prompted/style"] == pytest.approx(expected_shares("style", slice(0, 2)))


def test_the_second_table_shows_shares_with_their_intervals_and_the_chance():
    shares = {"prompted/style": np.array([1.0, 0.5]), "rank_1/photo": np.array([0.0, 0.5])}
    per_person = {name: np.array([0.25, 0.75]) for name in METRICS} | shares
    cost = {"hyperdreambooth": {"seconds": 1.0, "seconds_alone": 2.0, "bytes": 30.0}}
    results = summarize({"hyperdreambooth": per_person}, cost, num_resamples=500, seed=0)
    entry = results["methods"]["hyperdreambooth"]
    assert entry["prompted"]["style"]["mean"] == 0.75 and entry["prompted"]["style"]["ci95"] == [0.5, 1.0]
    assert entry["rank_1"] == {"photo": {"mean": 0.25, "ci95": [0.0, 0.5]}}
    assert entry["dino"]["per_identity"] == [0.25, 0.75]
    table = tables.share_table(results | {"protocol": {"gallery": 200}})
    assert table.columns == ["method", "style", "rank_1 photo"]
    assert table.rows == [["HyperDreamBooth", "0.750 [0.500, 1.000]", "0.250 [0.000, 0.500]"]]
    assert "nearest of 200 people" in table.note and table.note.endswith("chance 0.005.")
