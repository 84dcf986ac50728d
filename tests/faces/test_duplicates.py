"""The same picture is never in two splits."""

import json
from pathlib import Path

import pytest
from gray import png
from photo_files import FLAT, Transpose, encoded, ifd, orientation_tag, put, tag, with_exif, woman

from experiments import prepare
from hdb.faces.duplicates import drop_duplicate_photos
from hdb.faces.photos import identity_folders
from hdb.faces.shards import ShardFaces, list_shards
from hdb.faces.splits import Splits

SAME = {
    "a copy": lambda face: encoded(face, "PNG"),
    "another format": lambda face: encoded(face, "BMP"),
    "with other metadata": lambda face: encoded(face, "PNG", exif=b"Exif\0\0" + ifd(tag(0x010F, 2, 4, b"abc"))),
    "stored turned, and said so": lambda face: with_exif(
        ifd(orientation_tag(6)), "PNG", face.transpose(Transpose.ROTATE_90)
    ),
    "stored turned, and not said so": lambda face: encoded(face.transpose(Transpose.ROTATE_180), "PNG"),
    "with transparency": lambda face: encoded(face.convert("RGBA"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("source", ["flat", "folders"])
def test_the_same_picture_is_never_in_two_splits(call, tmp_path, source):
    brightness = iter(range(100, 0, -3))
    splits = {"train": [], "val": [], "test": []}
    for number, make in enumerate(SAME.values()):
        face = woman(next(brightness))
        pictures = {"a": encoded(face, "PNG"), "z": make(face)}  # in train and test
        pictures |= {name: encoded(woman(next(brightness)), "PNG") for name in ("b", "y")}
        for letter, content in pictures.items():
            put(tmp_path / "photos" / f"{letter}{number}" / "1.png", content)
            split = {"a": "train", "b": "train", "y": "val", "z": "test"}[letter]
            splits[split].append(f"{letter}{number}" + ("/1.png" if source == "flat" else ""))
    put(tmp_path / "mine.json", json.dumps(splits).encode())
    words = [*FLAT, f"source={source}", "splits=mine.json", "num_val_identities=100", "num_test_identities=100"]
    words = [word for word in words if word not in FLAT[-2:]]
    assert call(prepare, *words) == 0
    manifest, kept = (json.loads(Path("shards", name).read_text()) for name in ("manifest.json", "splits.json"))
    numbers = range(len(SAME))
    names = {split: [name[:2] for name in kept[split]] for split in splits}
    assert names == {split: [f"{letter}{n}" for n in numbers] for split, letter in zip(splits, "byz", strict=True)}
    dropped = [row["picture"] for row in manifest["skipped_pictures"]] + [
        row["path"] for row in manifest["other_files"]
    ]
    assert sorted(dropped) == [f"photos/a{number}/1.png" for number in numbers]  # what is tested is not trained on
    stream = ShardFaces(list_shards("shards", split="train"), resolution=32, shuffle_size=0)
    assert len(list(stream)) == len(SAME)
    before = {path.name: path.read_bytes() for path in Path("shards").iterdir()}
    assert call(prepare, *words) == 0
    assert {path.name: path.read_bytes() for path in Path("shards").iterdir()} == before


def test_training_from_folders_keeps_the_same_files_apart_too(tmp_path):
    for name, content in {"a/1": 1, "a/2": 2, "b/1": 3, "y/1": 1, "z/1": 3}.items():
        put(tmp_path / f"{name}.png", png(content))
    photos, splits = drop_duplicate_photos(identity_folders(tmp_path), Splits(["a", "b"], ["y"], ["z"]))
    names = {name: [path.name for path in paths] for name, paths in photos.items()}
    assert names == {"a": ["2.png"], "y": ["1.png"], "z": ["1.png"]}
    assert (splits.train, splits.val, splits.test) == (["a"], ["y"], ["z"])
    assert [file.reason.partition(",")[0] for file in photos.unused] == [
        f"the same picture as {tmp_path}/{name}/1.png" for name in ("z", "y")
    ]
