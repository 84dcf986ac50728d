"""Photos, cropped once, into shards."""

import errno
import json
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from deadly import DeadlyPicture
from gray import png, save_gray, write_shard
from photo_files import FLAT, encoded, put, scene, woman
from PIL import Image, ImageOps

from experiments import prepare, pretrain
from hdb.faces.crop import FaceCropper
from hdb.faces.photos import flat_folder, identity_folders
from hdb.faces.picture import FaceCrop, StoredPicture, center_square, open_picture
from hdb.faces.preparation import prepare_shards
from hdb.faces.shard_writer import prepare_shard, read_about
from hdb.faces.shards import ShardFaces, list_shards
from hdb.faces.sources import PhotoFaces, identity_number

WORDS = ["source=folders", "root=photos", "output=shards", "resolution=64", "identities_per_shard=2", "num_workers=0"]
WORDS += ["num_val_identities=1", "num_test_identities=1"]


@pytest.fixture
def photos(tmp_path, astronaut) -> Path:
    """Of six people one is seen twice, one with a broken picture, one without a face, one on a picture for two."""
    face = astronaut.crop((100, 0, 350, 250))
    root = tmp_path / "photos"
    pictures = {
        "ada/0.png": face,
        "ada/1.png": ImageOps.mirror(face),
        "bob/0.png": face.point(lambda value: value * 0.95),  # the same photo would not be put into two splits
        "cyd/0.png": Image.new("RGB", (250, 250), "gray"),
        "dan/0.png": face.convert("L"),
        "eve/0.png": Image.fromarray(np.hstack([np.asarray(face)] * 2)),
        "fay/0.png": face.point(lambda value: value * 0.9),
    }
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)
    (root / "bob" / "1.jpg").write_bytes(b"broken")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_photos_become_shards_with_a_manifest_and_splits(call, photos, capsys):
    assert call(prepare, *WORDS) == 0
    assert "shards: 5 people, 6 pictures in 4 shards; skipped: unreadable 1, no face 1" in capsys.readouterr().out
    manifest, splits = (json.loads(Path("shards", name).read_text()) for name in ("manifest.json", "splits.json"))
    assert manifest["shards"] == {
        "train-00000.tar": {"ada": 2, "bob": 1},
        "train-00001.tar": {"dan": 1},
        "val-00000.tar": {"eve": 1},
        "test-00000.tar": {"fay": 1},
    }
    assert [Path(picture["picture"]).name for picture in manifest["skipped_pictures"]] == ["1.jpg", "0.png"]
    (note,) = manifest["notes"]
    assert note["picture"] == "photos/eve/0.png" and "shows 2 faces" in note["message"]
    assert splits == {"train": ["ada", "bob", "dan"], "val": ["eve"], "test": ["fay"], "data": "folders photos"}

    stream = ShardFaces(list_shards("shards", split="train"), resolution=64, shuffle_size=0)
    ada, bob, dan = stream
    assert [person.identity for person in (ada, bob, dan)] == [identity_number(name) for name in ("ada", "bob", "dan")]
    assert (ada.reference - ada.target).abs().mean() > 0.05 and torch.equal(bob.reference, bob.target)
    crop = FaceCropper().cut(photos / "bob" / "0.png", resolution=64, crop=True)
    assert (bob.reference - crop.pixels).abs().mean() < 0.01 and bob.target_side == crop.side != 64
    assert stream.skipped.counts == {}


def test_an_interrupted_preparation_leaves_whole_shards_and_goes_on(call, photos, monkeypatch):
    assert call(prepare, *WORDS) == 0
    whole = contents(Path("shards"))
    cut, calls = FaceCropper.cut, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 7:  # eve, in the third shard
            raise KeyboardInterrupt
        return cut(*args, **kwargs)

    monkeypatch.setattr(FaceCropper, "cut", interrupted)
    words = [*WORDS, "output=torn"]
    assert call(prepare, *words) == 130
    assert sorted(path.name for path in Path("torn").iterdir()) == [
        "prepare.yaml",
        "train-00000.tar",
        "train-00001.tar",
    ]
    assert call(prepare, *words) == 0
    assert contents(Path("torn")) == whole and len(calls) == 7 + 2
    assert call(prepare, *words) == 0 and len(calls) == 9  # nothing is done twice


def test_a_process_that_is_stopped_leaves_whole_shards_too(photos, tmp_path):
    people = identity_folders(photos)
    jobs = {tmp_path / "out" / f"{name}.tar": {name: people[name]} for name in people}
    (tmp_path / "out").mkdir()
    work = prepare_shards(jobs, resolution=64, cropper={}, num_workers=1)
    assert next(work)["people"] == {"ada": 2}
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt)
    done = contents(tmp_path / "out")
    assert "ada.tar" in done and "fay.tar" not in done and len(done) == len(list((tmp_path / "out").iterdir()))
    for path, photos_of in jobs.items():
        prepare_shard(path, photos_of, cropper=FaceCropper(), resolution=64)
    assert done.items() <= contents(tmp_path / "out").items()  # in another process the same bytes


def test_a_shard_cut_after_preparation_keeps_what_is_before_the_cut(photos, tmp_path):
    path = tmp_path / "train-00000.tar"
    prepare_shard(path, identity_folders(photos), cropper=FaceCropper(), resolution=64)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        end = tar.getmember("train-00000-00003.0.jpg").offset_data + 100  # in dan's picture
    assert names[0] == "__about__" and names[1].endswith("00000.json")
    path.write_bytes(path.read_bytes()[:end])
    stream = ShardFaces(tmp_path, resolution=64, shuffle_size=0)
    with pytest.warns(UserWarning, match="breaks off"):
        assert [sample.identity for sample in stream] == [identity_number(name) for name in ("ada", "bob")]
    assert stream.skipped.counts["cut shard"] == 1
    write_shard(tmp_path / "other.tar", {"a.png": png(1)})
    with pytest.raises(ValueError, match="other.tar is no shard that was prepared .*; delete it"):
        read_about(tmp_path / "other.tar")


def test_nobody_usable_is_one_sentence_and_a_manifest_that_says_why(call, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"broken")
    words = ["source=flat", "root=.", "num_val_identities=0", "num_test_identities=0"]
    assert call(prepare, *WORDS, *words) == 2
    errors = capsys.readouterr().err
    assert "error: none of the 2 pictures can be used (unreadable 2); shards/manifest.json says why" in errors
    assert "skipped (unreadable): a.png is not a picture" in errors
    assert len(json.loads(Path("shards/manifest.json").read_text())["skipped_pictures"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("root=nowhere", "nowhere is no folder; expected a folder of pictures"),
        ("root=empty", "empty holds no picture; expected empty/<name>/<picture>"),
        ("source=faceworld", "faces.source is 'faceworld', expected one of folders, flat, celeba, lfw"),
        ("source=shards root=foreign", "source=shards root=foreign are no photos"),
        ("source=ftp", "faces.source is 'ftp', expected one of folders, "),
        ("source=celeba", "CelebA is missing or damaged in photos/celeba"),
        ("num_test_identities=5", "num_val_identities is 1 and num_test_identities 5; expected at most 5 together"),
        ("splits=twice.json", "twice.json: identity 'ada' is listed twice"),
        ("splits=both.json", "both.json: 1 identities are in both train and test, first 'ada'"),
        ("splits=unknown.json", "1 of 1 identities are not in the data, first 'zoe'"),
        ("output=foreign", "foreign holds shards from elsewhere; expected a new or empty output"),
        ("output=begun", "begun was begun with resolution 32, but now it is 64; expected the same settings"),
        ("identities_per_shard=0", "identities_per_shard is 0"),
    ],
)
def test_what_cannot_be_prepared_is_refused_and_nothing_is_left(call, tmp_path, photos, capsys, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    write_shard(tmp_path / "foreign" / "a.tar", {"a.png": png(1), "b.png": png(2)})
    for name, train in {"twice": ["ada", "ada"], "both": ["ada"], "unknown": ["zoe"]}.items():
        lists = {"train": train, "val": [], "test": ["ada"] if name == "both" else []}
        (tmp_path / f"{name}.json").write_text(json.dumps(lists))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "prepare.yaml").write_text("source: folders\nsplits: null\nnum_val_identities: 1\n"
        "num_identities: null\nnum_test_identities: 1\nidentities_per_shard: 2\nresolution: 32\n")  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    assert call(prepare, *WORDS, *words.split()) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_caches_are_added_beside_training_shards_and_trained_on(call, photos, tiny_weights):
    assert call(prepare, *WORDS) == 0
    before = contents(Path("shards"))
    cache = [f"cache.base={tiny_weights}/base", f"cache.encoder={tiny_weights}/encoder", "cache.accelerator=cpu"]
    assert call(prepare, *WORDS, *cache) == 0  # the same shards: what is kept of them is no setting of theirs
    assert contents(Path("shards")) == before
    kept = sorted(path.name.rpartition("-")[0] for path in Path("shards").glob("*.safetensors"))
    assert kept == [f"train-{n:05d}.{kind}" for n in range(2) for kind in ("features", "latents")]
    words = [
        "faces.source=shards",
        "faces.root=shards",
        "faces.target=same",
        "faces.resolution=64",
        "schedule.max_steps=1",
    ]
    words += ["faces.num_val_identities=1", "cached=true", "preview.num_identities=1", "num_val_draws=1"]
    assert call(pretrain, *words, "faces.num_identities=2", "gamma=1", "identity_until=1") == 0
    assert call(pretrain, *words, "faces.source=flat") == 2


def test_every_remark_and_refusal_stands_in_the_manifest(call, tmp_path):
    pictures = {
        "sideways": (woman().transpose(Image.Transpose.ROTATE_90), "on its side"),
        "two": (Image.fromarray(np.hstack([np.asarray(woman())] * 2)), "shows 2 faces"),
        "at the border": (woman().crop((95, 0, 310, 310)), "edge is repeated"),
        "no remark": (woman(), None),
    }
    refused = {"chin": woman().crop((95, 70, 215, 195)), "wall": Image.new("RGB", (300, 300), "gray")}
    (tmp_path / "photos").mkdir()
    for name, picture in {name: picture for name, (picture, _) in pictures.items()}.items():
        picture.save(tmp_path / "photos" / f"{name}.png")
    for name, picture in refused.items():
        picture.save(tmp_path / "photos" / f"{name}.png")
    icc = {"icc_profile": b"junk"}
    woman(97).save(tmp_path / "photos" / "profile.png", **icc)
    assert call(prepare, *FLAT) == 0
    manifest = json.loads(Path("shards/manifest.json").read_text())
    notes = {row["picture"]: row["message"] for row in manifest["notes"]}
    for name, remark in [(name, remark) for name, (_, remark) in pictures.items()] + [("profile", "color profile")]:
        message = notes.get(f"photos/{name}.png")
        assert message is None if remark is None else remark in message
    skipped = {row["picture"]: row["reason"] for row in manifest["skipped_pictures"]}
    assert skipped == {"photos/chin.png": "outside", "photos/wall.png": "no face"}


def test_photos_with_damaged_pixels_are_named_and_never_fatal(call, tmp_path, monkeypatch):
    # 1,000 of 1,000 with other seeds. Finding the face is none of its business here.
    def cut(self: FaceCropper, picture: Path, *, resolution: int, crop: bool) -> FaceCrop:
        return FaceCrop(center_square(open_picture(picture), resolution=resolution), resolution)

    monkeypatch.setattr(FaceCropper, "cut", cut)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    kinds = ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "JPEG2000", "BMP"]
    for number in range(140):
        kind = kinds[number % len(kinds)]
        options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
        whole = np.frombuffer(encoded(scene(), kind, **options), np.uint8).copy()
        if number % 3:
            whole[rng.integers(len(whole) // 8, len(whole), 20)] = rng.integers(0, 256, 20)
        else:
            whole = whole[: rng.integers(1, len(whole) - 40)]
        (tmp_path / "photos" / f"{number:03d}.jpg").write_bytes(whole.tobytes())
    assert call(prepare, *FLAT, "identities_per_shard=999") == 0
    manifest = json.loads(Path("shards/manifest.json").read_text())
    assert manifest["pictures"] + len(manifest["skipped_pictures"]) == 140
    refused = {row["picture"] for row in manifest["skipped_pictures"]}
    assert refused >= {f"photos/{number:03d}.jpg" for number in range(1, 140, 7)}  # PNG, which has checksums


ERRORS = [MemoryError(), struct.error("unpack"), SyntaxError("broken"), RecursionError("deep"), KeyError("x")]
ERRORS += [AssertionError(), RuntimeError("shape\nof tensors"), OSError(5, "I/O error")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_crash_in_one_photo_is_its_row_in_the_manifest(call, tmp_path, monkeypatch, error):
    for name in ("a", "b", "c"):
        save_gray(tmp_path / "photos" / f"{name}.png", ord(name))

    def cut(self: FaceCropper, picture: Path, *, resolution: int, crop: bool) -> FaceCrop:
        if picture.name == "b.png":
            raise error
        return FaceCrop(torch.zeros(3, resolution, resolution) + ord(picture.name[0]) / 255, resolution)

    monkeypatch.setattr(FaceCropper, "cut", cut)
    assert call(prepare, *FLAT) == 0
    manifest = json.loads(Path("shards/manifest.json").read_text())
    (row,) = manifest["skipped_pictures"]
    assert manifest["people"] == 2 and row["picture"] == "photos/b.png" and row["reason"] == "crashed"
    assert row["message"].startswith("photos/b.png cannot be used") and "\n" not in row["message"]
    source = PhotoFaces(flat_folder("photos"), resolution=8, cropper=FaceCropper())
    with pytest.warns(UserWarning, match="b.png cannot be used"):
        assert len(list(source)) == 3
    assert source.skipped.counts == {"crashed": 1}


def test_a_photo_of_which_the_process_dies_is_a_row_too(tmp_path):
    photos = {name: [StoredPicture(name, encoded(woman(), "JPEG"))] for name in "abcd"}
    photos["b"] = [DeadlyPicture("deadly.jpg", b"")]
    jobs = {tmp_path / "0.tar": {name: photos[name] for name in "ab"}, tmp_path / "1.tar": {"d": photos["d"]}}
    done = list(prepare_shards(jobs, resolution=32, cropper={}, num_workers=2))
    assert sorted(sum((list(about["people"]) for about in done), [])) == ["a", "d"]
    (row,) = read_about(tmp_path / "0.tar")["skipped"]
    assert row["picture"] == "deadly.jpg" and row["reason"] == "crashed" and "a process died of it" in row["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "1.tar"]


def test_what_killed_processes_left_is_deleted_and_nothing_else(tmp_path):
    jobs = {tmp_path / "0.tar": {"a": [StoredPicture("a", encoded(woman(), "JPEG"))]}}
    for name in (".0.tar.0123456789ab.tmp", ".1.tar.0123456789ab.tmp", "0.tmp"):
        put(tmp_path / name, b"")
    assert len(list(prepare_shards(jobs, resolution=32, cropper={}, num_workers=0))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".1.tar.0123456789ab.tmp", "0.tar", "0.tmp"]


@pytest.mark.parametrize("where", ["train-00000.tar", "manifest.json", "splits.json", "prepare.yaml"])
def test_a_full_disk_is_a_sentence_with_the_file(call, tmp_path, monkeypatch, capsys, where):
    put(tmp_path / "photos" / "a.png", encoded(woman(), "PNG"))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where.endswith("tar"):
        monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    else:
        write = Path.write_bytes
        monkeypatch.setattr(
            Path, "write_bytes", lambda path, content: full() if where in path.name else write(path, content)
        )
    assert call(prepare, *FLAT) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and "No space left on device" in message and f"shards/{where}" in message
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".tmp")]
