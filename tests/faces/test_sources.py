"""Where people come from."""

import pytest
import torch
from gray import level

from hdb.faces.crop import FaceCropper
from hdb.faces.photos import flat_folder, identity_folders, select
from hdb.faces.sources import FaceBatch, PhotoFaces, identity_number


def test_target_is_another_picture_of_the_person_where_there_is_one(folders):
    source = PhotoFaces(identity_folders(folders), resolution=8)
    assert source.names == ["anna", "bert"]
    for draw in range(20):
        anna, bert = source[draw, 0], source[draw, 1]
        assert {level(anna.reference), level(anna.target)} < {10, 11, 12} and level(anna.reference) != level(
            anna.target
        )
        assert torch.equal(bert.reference, bert.target) and anna.prompt == bert.prompt == "a [V] face"


def test_same_target_is_the_reference(folders):
    source = PhotoFaces(identity_folders(folders), resolution=8, target="same")
    assert all(torch.equal(*source[draw, 0][:2]) for draw in range(5))


def test_a_sample_is_a_function_of_seed_draw_and_index(folders):
    def source(seed: int) -> PhotoFaces:
        return PhotoFaces(identity_folders(folders), resolution=8, seed=seed)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [source(0)[draw, 0] for draw in range(12)]
    again = [source(0)[draw, 0] for draw in reversed(range(12))][::-1]
    assert all(torch.equal(a.target, b.target) and a.prompt == b.prompt for a, b in zip(first, again, strict=True))
    other = [source(1)[draw, 0] for draw in range(12)]
    assert any(not torch.equal(a.reference, b.reference) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator belongs to others


def test_each_picture_of_a_flat_folder_is_a_person(folders):
    source = PhotoFaces(flat_folder(folders / "anna"), resolution=8)
    assert [sample.identity for sample in source] == [identity_number(f"{number}.png") for number in range(3)]
    assert [level(sample.reference) for sample in source] == [10, 11, 12]


def test_broken_pictures_are_named_counted_and_replaced(folders):
    (folders / "anna" / "1.png").write_bytes(b"broken")
    (folders / "bert" / "0.jpg").write_bytes(b"broken")
    source = PhotoFaces(identity_folders(folders), resolution=8)
    with pytest.warns(UserWarning, match="skipped .unreadable.: .* is not a picture"):
        bert = source[0, 1]
    assert bert.identity == identity_number("anna")  # bert has no usable picture: the next person stands in
    with pytest.warns(UserWarning, match="1.png"):
        assert all({level(source[draw, 0].reference), level(source[draw, 0].target)} == {10, 12} for draw in range(5))
    assert source.skipped.counts["unreadable"] > 2
    nobody = pytest.raises(ValueError, match="none of the 1 pictures can be used")
    with pytest.warns(UserWarning, match="skipped .unreadable.: "), nobody:
        PhotoFaces(select(identity_folders(folders), ["bert"]), resolution=8)[0]


def test_what_shows_no_face_is_skipped_with_the_cropper(folders):
    source = PhotoFaces(select(identity_folders(folders), ["bert"]), resolution=8, cropper=FaceCropper())
    with pytest.warns(UserWarning, match="no face found"), pytest.raises(ValueError, match="'no face': 1"):
        source[0]


def test_a_batch_stacks_samples_in_order(folders):
    source = PhotoFaces(identity_folders(folders), resolution=8)
    samples = [source[0, 1], source[0, 0]]
    batch = FaceBatch.from_samples(samples)
    assert (
        batch.identities.tolist() == [identity_number("bert"), identity_number("anna")]
        and batch.prompts == ["a [V] face"] * 2
    )
    assert torch.equal(batch.target[1], samples[1].target) and torch.equal(batch.reference[0], samples[0].reference)


def test_an_identity_is_the_same_number_in_every_split_and_run(folders):
    everyone = identity_folders(folders)
    numbers = {name: sample.identity for name, sample in zip(everyone, PhotoFaces(everyone, resolution=8), strict=True)}
    assert len(set(numbers.values())) == len(numbers)
    (alone,) = PhotoFaces(select(everyone, ["bert"]), resolution=8)
    assert alone.identity == numbers["bert"] == 0x194C3E25BD4FDC87
