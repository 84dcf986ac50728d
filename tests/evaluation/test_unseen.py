"""Whom an evaluation tests, and among whom somebody is looked for."""

import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from gray import level, seven_pictures, three_shards

from hdb.evaluation.options import ProtocolOptions
from hdb.evaluation.people import select_unseen_people
from hdb.faces import sources
from hdb.faces.options import PeopleOptions
from hdb.faces.people import People
from hdb.faces.picture import picture_name

FEW = {"resolution": 8, "crop": False, "num_val_identities": 2, "num_test_identities": 1}


@pytest.fixture
def flat(tmp_path) -> Path:
    return seven_pictures(tmp_path / "flat")


@pytest.fixture
def shards(tmp_path) -> Path:
    return three_shards(tmp_path / "shards")


def test_a_person_without_a_usable_picture_is_not_tested_as_somebody_else(flat):
    (flat / "5.png").write_bytes(b"broken")
    faces = PeopleOptions(source="flat", root=str(flat), **{**FEW, "num_test_identities": 3})
    with pytest.warns(UserWarning, match="5.png is not a picture"):
        people = select_unseen_people(People(faces), ProtocolOptions(num_identities=2), hypernet=flat)
    assert people.names == ["4.png", "6.png"] and [level(photos[0]) for photos in people.references] == [4, 6]
    few = "num_identities is 3, but 2 of the 3 test people"
    with pytest.warns(UserWarning, match="5.png is not a picture"), pytest.raises(ValueError, match=few):
        select_unseen_people(People(faces), ProtocolOptions(num_identities=3), hypernet=flat)


@pytest.mark.parametrize("target", ["same", "other"])
def test_a_photo_is_decoded_once_and_references_are_those_of_samples(flat, shards, target, monkeypatch):
    (flat / "6.png").write_bytes(b"broken")
    decoded, real = Counter(), sources.open_picture
    monkeypatch.setattr(
        sources, "open_picture", lambda picture: decoded.update([picture_name(picture)]) or real(picture)
    )
    for source, root, num in (("flat", flat, 2), ("shards", shards, 3)):
        faces = PeopleOptions(source=source, root=str(root), **{**FEW, "num_test_identities": 3}, target=target)
        people = People(faces)
        decoded.clear()
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            references = people.references("test", num_identities=num, num_references=4, num_gallery=3).photos
            assert decoded and set(decoded.values()) == {1}
            samples = people.faces("test")
            expected = [[samples[draw, index].reference for draw in range(4)] for index in range(num)]
        assert torch.equal(references, torch.stack([torch.stack(person) for person in expected]))


def test_somebody_is_looked_for_among_everybody_unseen_by_another_photo_where_there_is_one(flat, shards, tmp_path):
    few = {**FEW, "num_test_identities": 4, "num_val_identities": 1}
    faces = PeopleOptions(source="flat", root=str(flat), **few)
    for gallery, expected in ((200, [3, 4, 5, 6]), (3, [3, 4, 5]), (2, [3, 4])):  # one picture each
        people = select_unseen_people(
            People(faces), ProtocolOptions(num_identities=2, num_gallery=gallery), hypernet=flat
        )
        assert [level(photo) for photo in people.gallery] == expected
    faces = PeopleOptions(source="shards", root=str(shards), **{**few, "num_test_identities": 3})
    people = select_unseen_people(People(faces), ProtocolOptions(num_identities=2, num_references=6), hypernet=flat)
    assert [level(photo) // 10 for photo in people.gallery] == [0, 1, 2]
    for photo, in_gallery in zip(people.references[:, 0], people.gallery[:2], strict=True):
        assert level(photo) != level(in_gallery)
    with pytest.raises(ValueError, match="num_gallery is 1, expected at least num_identities, which is 2"):
        select_unseen_people(People(faces), ProtocolOptions(num_identities=2, num_gallery=1), hypernet=flat)
