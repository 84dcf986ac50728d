"""People of faceworld as training samples and as references of an evaluation."""

import pytest
import torch

from hdb.evaluation.options import ProtocolOptions
from hdb.evaluation.people import select_unseen_people
from hdb.faces.options import PeopleOptions
from hdb.faceworld.captions import caption
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.people import FaceworldFaces, FaceworldPeople
from hdb.faceworld.world import FaceWorld
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> FaceWorldDataset:
    dataset = FaceWorldDataset(tmp_path_factory.mktemp("world"), indices=[1, 0], views_per_identity=6, resolution=64)
    dataset.prepare(num_workers=0, progress=False)
    return dataset


def drawn_views(source: FaceworldFaces, draw: int) -> tuple[int, int, str]:
    """Numbers of the reference's and of the target's view in one draw of person 0, and the prompt."""
    sample = source[draw, 1]
    assert sample.identity == 0  # the world's number of the person at position 1
    pictures = [source.image(1, view) for view in range(6)]
    reference = next(view for view, picture in enumerate(pictures) if torch.equal(picture, sample.reference))
    target = next(view for view, picture in enumerate(pictures) if torch.equal(picture, sample.target))
    return reference, target, sample.prompt


def test_references_are_plain_and_targets_are_another_view(dataset):
    draws = [drawn_views(FaceworldFaces(dataset, target_views="all"), draw) for draw in range(80)]
    assert {reference for reference, _, _ in draws} == {0, 3} and {target for _, target, _ in draws} == set(range(6))
    assert all(reference != target for reference, target, _ in draws)
    plain = [drawn_views(FaceworldFaces(dataset, target_views="plain"), draw) for draw in range(10)]
    assert {pair[:2] for pair in plain} == {(0, 3), (3, 0)}
    same = [drawn_views(FaceworldFaces(dataset, target_views="same"), draw) for draw in range(5)]
    assert all(reference == target for reference, target, _ in same)
    with pytest.raises(ValueError, match="target_views is 'any', expected one of plain, all, same"):
        FaceworldFaces(dataset, target_views="any")


def test_prompts_say_everything_a_target_shows(dataset):
    for draw in range(40):
        _, target, prompt = drawn_views(FaceworldFaces(dataset, target_views="all"), draw)
        said = caption(dataset.view(1, target), identifier=IDENTIFIER)
        assert prompt == (said.removeprefix("a photo of ") if target in (0, 3) else said)


def test_neutral_plain_targets_have_the_instance_prompt_and_smiling_ones_say_so(dataset, monkeypatch):
    view = dataset.view(1, 0)
    source = FaceworldFaces(dataset, target_views="plain")
    for expression, expected in (("neutral", INSTANCE_PROMPT), ("smiling", f"{INSTANCE_PROMPT} smiling")):
        shown = view.replace(expression=expression, accessory="none")
        monkeypatch.setattr(dataset, "view", lambda index, number, shown=shown: shown)
        assert source[0, 1].prompt == expected


def test_a_sample_is_a_function_of_seed_draw_and_index(dataset):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [FaceworldFaces(dataset, seed=0)[draw, 0] for draw in range(12)]
    again = [FaceworldFaces(dataset, seed=0)[draw, 0] for draw in reversed(range(12))][::-1]
    assert all(torch.equal(a.target, b.target) and a.prompt == b.prompt for a, b in zip(first, again, strict=True))
    other = [FaceworldFaces(dataset, seed=1)[draw, 0] for draw in range(12)]
    assert any(not torch.equal(a.reference, b.reference) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator belongs to others


def test_the_gallery_is_a_plain_view_of_each_test_person(tmp_path, monkeypatch):
    monkeypatch.setattr("hdb.faceworld.people.SPLITS", {"test": range(4, 8)})
    people = FaceworldPeople(PeopleOptions(source="faceworld", root=str(tmp_path), resolution=32, render_workers=0))
    world = FaceWorld(resolution=32)
    for num_references, own_view in ((1, 0), (2, 3)):
        options = ProtocolOptions(num_identities=2, num_references=num_references)
        tested = select_unseen_people(people, options, hypernet=tmp_path)
        pairs = [(world.identity(person), world.view(person, own_view if person < 6 else 0)) for person in range(4, 8)]
        torch.testing.assert_close(tested.gallery, world.render(pairs), rtol=0, atol=0.6 / 255)  # some from disk


def test_methods_are_given_as_many_photos_as_asked_for(tmp_path):
    options = ProtocolOptions(num_identities=2, num_references=3, num_gallery=2, num_photos=2)
    people = FaceworldPeople(PeopleOptions(source="faceworld", root=str(tmp_path), resolution=32))
    tested = select_unseen_people(people, options, hypernet=tmp_path)
    assert torch.equal(tested.photos.views, tested.references[:, :2]) and tested.references.shape[1] == 3
    assert torch.equal(tested._replace(num_photos=1).photos.views, tested.references[:, :1])
