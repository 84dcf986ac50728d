"""Where people come from."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hdb.faces.crop import FaceCropper
from hdb.faces.shards import ShardFaces, identity_number
from hdb.faces.sources import (
    FaceBatch,
    FaceworldFaces,
    PhotoFaces,
    celeba,
    flat_folder,
    identity_folders,
    lfw,
    refuse_overlap,
    select,
)
from hdb.faceworld.dataset import FaceWorldDataset

ONE_COLOR = 16  # pictures are one gray level each, so that a tensor names its picture


def save_gray(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (ONE_COLOR, ONE_COLOR), (level,) * 3).save(path)
    return path


def level(picture: torch.Tensor) -> int:
    return round(picture.mean().item() * 255)


@pytest.fixture
def folders(tmp_path) -> Path:
    """anna has three pictures, bert one, carl none."""
    for number in range(3):
        save_gray(tmp_path / "people" / "anna" / f"{number}.png", 10 + number)
    save_gray(tmp_path / "people" / "bert" / "0.jpg", 20)
    (tmp_path / "people" / "carl").mkdir()
    (tmp_path / "people" / "anna" / "notes.txt").write_text("not a picture")
    return tmp_path / "people"


@pytest.fixture(scope="module")
def faceworld(tmp_path_factory) -> FaceWorldDataset:
    dataset = FaceWorldDataset(tmp_path_factory.mktemp("world"), indices=[1, 0], views_per_identity=6, resolution=64)
    dataset.prepare(num_workers=0, progress=False)
    return dataset


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


def test_a_sample_is_a_function_of_seed_draw_and_index(folders, faceworld):
    for make in (
        lambda seed: PhotoFaces(identity_folders(folders), resolution=8, seed=seed),
        lambda seed: FaceworldFaces(faceworld, seed=seed),
    ):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = [make(0)[draw, 0] for draw in range(12)]
        again = [make(0)[draw, 0] for draw in reversed(range(12))][::-1]
        assert all(torch.equal(a.target, b.target) and a.prompt == b.prompt for a, b in zip(first, again, strict=True))
        other = [make(1)[draw, 0] for draw in range(12)]
        assert any(not torch.equal(a.reference, b.reference) for a, b in zip(first, other, strict=True))
        assert torch.equal(torch.get_rng_state(), state)  # the global generator belongs to others


def test_each_picture_of_a_flat_folder_is_a_person(folders):
    source = PhotoFaces(flat_folder(folders / "anna"), resolution=8)
    assert [sample.identity for sample in source] == [0, 1, 2]
    assert [level(sample.reference) for sample in source] == [10, 11, 12]


def test_broken_pictures_are_named_counted_and_replaced(folders):
    (folders / "anna" / "1.png").write_bytes(b"broken")
    (folders / "bert" / "0.jpg").write_bytes(b"broken")
    source = PhotoFaces(identity_folders(folders), resolution=8)
    with pytest.warns(UserWarning, match="skipped .unreadable.: .* is not a picture"):
        bert = source[0, 1]
    assert bert.identity == 0  # bert has no usable picture: the next person stands in
    with pytest.warns(UserWarning, match="1.png"):
        assert all({level(source[draw, 0].reference), level(source[draw, 0].target)} == {10, 12} for draw in range(5))
    assert source.skipped.counts["unreadable"] > 2
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 1 pictures can be used"):
        PhotoFaces(select(identity_folders(folders), ["bert"]), resolution=8)[0]


def test_what_shows_no_face_is_skipped_with_the_cropper(folders):
    source = PhotoFaces(select(identity_folders(folders), ["bert"]), resolution=8, cropper=FaceCropper())
    with pytest.warns(UserWarning, match="no face found"), pytest.raises(ValueError, match="'no face': 1"):
        source[0]


def test_faceworld_references_are_plain_and_targets_are_another_view(faceworld):
    def views(source: FaceworldFaces, draw: int) -> tuple[int, int, str]:
        sample = source[draw, 1]
        pictures = [torch.from_numpy(faceworld.image(1, view)).float() / 255 for view in range(6)]
        reference, target = (
            next(view for view, picture in enumerate(pictures) if torch.equal(picture, given))
            for given in (sample.reference, sample.target)
        )
        assert sample.identity == 0  # the world's number of the person at position 1
        return reference, target, sample.prompt

    seen = [views(FaceworldFaces(faceworld, target_views="all"), draw) for draw in range(80)]
    assert {reference for reference, _, _ in seen} == {0, 3} and {target for _, target, _ in seen} == set(range(6))
    for reference, target, prompt in seen:
        assert reference != target and "[V] face" in prompt
        assert (prompt == "a [V] face") == (target in (0, 3))
    plain = [views(FaceworldFaces(faceworld, target_views="plain"), draw) for draw in range(10)]
    assert {pair[:2] for pair in plain} == {(0, 3), (3, 0)}
    paper = [views(FaceworldFaces(faceworld, target_views="same"), draw) for draw in range(5)]
    assert all(reference == target and prompt == "a [V] face" for reference, target, prompt in paper)
    with pytest.raises(ValueError, match="target_views is 'any', expected one of plain, all, same"):
        FaceworldFaces(faceworld, target_views="any")


def test_duplicates_unknown_names_and_overlapping_splits_are_refused(folders):
    people = identity_folders(folders)
    with pytest.raises(ValueError, match="'anna' is listed twice"):
        select(people, ["anna", "bert", "anna"])
    with pytest.raises(ValueError, match="1 of 2 identities are not in the data, first 'dora'"):
        select(people, ["anna", "dora"])
    with pytest.raises(ValueError, match="1 identities are in both train and test, first 'bert'"):
        refuse_overlap(train=["anna", "bert"], val=["carl"], test=["bert"])
    refuse_overlap(train=["anna"], test=["bert"])


def test_empty_and_missing_folders_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        flat_folder(tmp_path / "absent")
    for read in (flat_folder, identity_folders):
        with pytest.raises(ValueError, match="holds no picture"):
            read(tmp_path)
    for read, name in ((celeba, "CelebA"), (lfw, "LFW")):
        with pytest.raises(ValueError, match=f"{name} is missing or damaged in {tmp_path}"):
            read(tmp_path)


def test_celeba_and_lfw_are_grouped_by_person(tmp_path, monkeypatch):
    # The real checksums belong to the real files; everything else is torchvision's own reading.
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.LFWPeople, "_check_integrity", lambda self: True)
    root = tmp_path / "celeba"
    people = {"000001.jpg": 7, "000002.jpg": 3, "000003.jpg": 7, "000004.jpg": 3}
    tables = {
        "list_eval_partition.txt": [[name, 2 if name == "000004.jpg" else 0] for name in people],
        "identity_CelebA.txt": [[name, label] for name, label in people.items()],
        "list_bbox_celeba.txt": [[4], ["image_id", "x"], *([name, 1] for name in people)],
        "list_landmarks_align_celeba.txt": [[4], ["x"], *([name, 1] for name in people)],
        "list_attr_celeba.txt": [[4], ["Smiling"], *([name, 1] for name in people)],
    }
    for number, name in enumerate(people):
        save_gray(root / "img_align_celeba" / name, 50 * number)
    for name, rows in tables.items():
        with (root / name).open("w") as file:
            csv.writer(file, delimiter=" ").writerows(rows)
    found = {name: [path.name for path in paths] for name, paths in celeba(tmp_path).items()}
    assert found == {"00003": ["000002.jpg"], "00007": ["000001.jpg", "000003.jpg"]}
    assert level(PhotoFaces(celeba(tmp_path), resolution=8)[0].reference) == 50

    wild = tmp_path / "lfw-py"
    save_gray(wild / "lfw_funneled" / "Ada_L" / "Ada_L_0001.jpg", 0)
    (wild / "lfw-names.txt").write_text("Ada_L\t2\nBob_M\t1\n")
    (wild / "peopleDevTrain.txt").write_text("2\nAda_L\t2\nBob_M\t1\n")
    grouped = {name: [path.name for path in paths] for name, paths in lfw(tmp_path).items()}
    assert grouped == {"Ada_L": ["Ada_L_0001.jpg", "Ada_L_0002.jpg"], "Bob_M": ["Bob_M_0001.jpg"]}


# Shards


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (ONE_COLOR, ONE_COLOR), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four shards of five people; person n has the gray level n."""
    for shard in range(4):
        people = range(5 * shard, 5 * shard + 5)
        write_shard(tmp_path / f"faces-{shard:03d}.tar", {f"person{n:02d}.png": png(n) for n in people})
    return tmp_path


def test_every_person_of_the_shards_comes_once_in_an_order_of_the_epoch(shards):
    def order(seed: int, epoch: int) -> list[int]:
        source = ShardFaces(shards, resolution=8, seed=seed, shuffle_size=8)
        source.set_epoch(epoch)
        return [level(sample.reference) for sample in source]

    assert sorted(order(0, 0)) == list(range(20)) != order(0, 0)
    assert order(0, 0) == order(0, 0) != order(0, 1) != order(1, 1)
    plain = [level(sample.reference) for sample in ShardFaces(shards, resolution=8, shuffle_size=0)]
    assert plain == list(range(20))


def test_workers_and_nodes_share_the_shards_without_overlap(shards, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("NUM_WORKERS", "2")
    shares = []
    for node in "01":
        for worker in "01":
            monkeypatch.setenv("RANK", node)
            monkeypatch.setenv("WORKER", worker)
            shares.append({level(sample.reference) for sample in ShardFaces(shards, resolution=8)})
    assert sorted(map(len, shares)) == [5, 5, 5, 5] and set.union(*shares) == set(range(20))
    monkeypatch.setenv("NUM_WORKERS", "3")
    with pytest.raises(ValueError, match="4 shards cannot be split between 2 nodes with 3 workers .* at least 6"):
        next(iter(ShardFaces(shards, resolution=8)))


def test_an_epoch_of_given_length_repeats_the_stream(shards):
    levels = [level(sample.reference) for sample in ShardFaces(shards, resolution=8, num_samples=50)]
    assert len(levels) == 50 and min(np.bincount(levels, minlength=20)) >= 2


def test_a_person_may_have_several_pictures_and_a_prompt(tmp_path):
    about = json.dumps({"identity": "ada", "prompt": "a [V] face, oil painting"}).encode()
    files = {"x.0.png": png(1), "x.1.png": png(2), "x.json": about, "y.png": png(3)}
    samples = list(ShardFaces([str(write_shard(tmp_path / "a.tar", files))], resolution=8, shuffle_size=0))
    assert {level(samples[0].reference), level(samples[0].target)} == {1, 2}
    assert samples[0].prompt == "a [V] face, oil painting" and samples[0].identity == identity_number("ada")
    assert samples[1].identity == identity_number("y") and samples[1].prompt == "a [V] face"


def test_what_a_shard_cannot_give_is_counted_with_its_reason(shards):
    files = {"a.png": b"broken", "b.txt": b"no picture", "c.png": png(30), "d.png": png(31), "d.json": b"{"}
    write_shard(shards / "faces-004.tar", files)
    cut = shards / "faces-001.tar"
    cut.write_bytes(cut.read_bytes()[:2500])  # two pictures are whole, the header of the third breaks off
    source = ShardFaces(shards, resolution=8, shuffle_size=0)
    with pytest.warns(UserWarning, match="skipped"):
        levels = [level(sample.reference) for sample in source]
    assert set(range(5)) | set(range(10, 20)) | {30} <= set(levels) and 9 not in levels
    assert source.skipped.counts == {"unreadable": 2, "no picture": 1, "cut shard": 1}


def test_shards_that_cannot_be_read_are_refused_before_training(tmp_path, shards):
    first = str(shards / "faces-000.tar")
    for given, match in (
        (tmp_path / "absent.tar", "neither a file nor an http"),
        ("pipe:cat /etc/passwd", "neither a file nor an http"),
        ([first, first], "listed twice"),
    ):
        with pytest.raises(ValueError, match=match):
            ShardFaces(given, resolution=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        ShardFaces(tmp_path / "empty", resolution=8)
    assert len(ShardFaces(str(shards / "faces-{000..003}.tar"), resolution=8).shards) == 4


def test_a_batch_stacks_samples_in_order(folders):
    source = PhotoFaces(identity_folders(folders), resolution=8)
    samples = [source[0, 1], source[0, 0]]
    batch = FaceBatch.of(samples)
    assert batch.identities.tolist() == [1, 0] and batch.prompts == ["a [V] face"] * 2
    assert torch.equal(batch.target[1], samples[1].target) and torch.equal(batch.reference[0], samples[0].reference)
