"""Splits are drawn of those who have a usable picture, and an empty one is said."""

import json
from pathlib import Path

import pytest
import torch
from gray import level, save_gray

from experiments import prepare, pretrain
from hdb.faces import redraw
from hdb.faces.crop import FaceCropper
from hdb.faces.options import PeopleOptions
from hdb.faces.people import People
from hdb.faces.picture import FaceCrop, FaceError, open_picture, to_tensor
from hdb.faces.shards import read_shard_photos

WORDS = ["source=folders", "root=photos", "output=shards", "resolution=8", "identities_per_shard=2", "num_workers=0"]
NAMES = "abcdefgh"
WORDS += ["num_val_identities=2", "num_test_identities=2"]


@pytest.fixture
def unusable(call, tmp_path, monkeypatch) -> set[str]:
    """Photos of a to h. Those whose names a test adds to this set show no face."""
    names: set[str] = set()
    for name in NAMES:
        save_gray(tmp_path / "photos" / name / "0.png", ord(name))

    def cut(self: FaceCropper, picture: Path, *, resolution: int, **options: object) -> FaceCrop:
        if picture.parent.name in names:
            raise FaceError(f"no face found in {picture}", reason="no face")
        level = 20 * NAMES.index(picture.parent.name) / 255
        return FaceCrop(torch.full((3, resolution, resolution), level), 100)

    monkeypatch.setattr(FaceCropper, "cut", cut)
    return names


def people_of(split: str, folder: str = "shards") -> str:
    """The people in the shards of a split, whose crops are their own."""
    shards = [str(path) for path in sorted(Path(folder).glob(f"{split}-*.tar"))]
    photos = read_shard_photos(shards, num=99)
    for name, (picture,) in photos.items():
        assert level(to_tensor(open_picture(picture))) == pytest.approx(20 * NAMES.index(name), abs=1)
    return "".join(sorted(photos))


@pytest.mark.parametrize(
    ("lost", "splits"),
    [
        ("", {"train": "abcd", "val": "ef", "test": "gh"}),
        ("gh", {"train": "ab", "val": "cd", "test": "ef"}),
        ("ef", {"train": "ab", "val": "cd", "test": "gh"}),
        ("aceg", {"train": "b", "val": "d", "test": "fh"}),
        ("abc", {"train": "d", "val": "ef", "test": "gh"}),
    ],
)
def test_splits_are_drawn_of_those_who_can_be_used(call, unusable, lost, splits):
    unusable.update(lost)
    assert call(prepare, *WORDS) == 0
    assert {split: people_of(split) for split in splits} == splits
    written = json.loads(Path("shards/splits.json").read_text())
    assert {split: "".join(written[split]) for split in splits} == splits
    manifest = json.loads(Path("shards/manifest.json").read_text())
    listed = {name: "".join(people) for name, people in manifest["shards"].items()}
    assert sorted("".join(listed.values())) == sorted(set(NAMES) - unusable)
    before = {path: path.read_bytes() for path in Path("shards").iterdir()}
    assert call(prepare, *WORDS) == 0
    assert {path: path.read_bytes() for path in Path("shards").iterdir()} == before


@pytest.mark.parametrize(
    ("lost", "splits", "sentences"),
    [
        ("abcde", {"train": "f", "val": "g", "test": "h"}, ["val has 1 of 2 people", "test has 1 of 2 people"]),
        ("abcdef", {"train": "g", "val": "", "test": "h"}, ["val has 0 of 2 people", "test has 1 of 2 people"]),
        ("abcdefg", {"train": "h", "val": "", "test": ""}, ["val has 0 of 2 people", "test has 0 of 2 people"]),
    ],
)
def test_a_split_that_cannot_be_filled_is_said(call, unusable, capsys, lost, splits, sentences):
    unusable.update(lost)
    assert call(prepare, *WORDS) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "no more of those who were asked for" in line]
    assert [line.partition(":")[0] for line in said] == sentences
    written = json.loads(Path("shards/splits.json").read_text())
    assert {split: "".join(written[split]) for split in splits} == splits


def test_listed_splits_stay_as_they_are_and_an_empty_one_is_said(call, unusable, capsys):
    unusable.update("gh")
    lists = {"train": list("abcd"), "val": ["e", "g"], "test": ["h"]}
    Path("lists.json").write_text(json.dumps(lists))
    assert call(prepare, *WORDS, "splits=lists.json") == 0
    printed = capsys.readouterr().out
    assert "val has 1 of 2 people" in printed and "test has 0 of 1 people" in printed
    assert {split: people_of(split) for split in ("train", "val")} == {"train": "abcd", "val": "e"}


@pytest.mark.parametrize("lost", ["gh", "abcde"])  # people move towards test; and the other way
def test_a_move_interrupted_anywhere_is_finished_by_the_next_call(call, unusable, monkeypatch, lost):
    unusable.update(lost)
    write, writes = redraw.write_shard, []

    def write_or_stop(path: Path, *content: object) -> None:
        writes.append(path)
        if len(writes) == stop_at:
            raise KeyboardInterrupt
        write(path, *content)

    stop_at = None
    monkeypatch.setattr(redraw, "write_shard", write_or_stop)
    assert call(prepare, *WORDS) == 0
    whole = {path.name: path.read_bytes() for path in Path("shards").iterdir() if path.name != "prepare.yaml"}
    num_writes = len(writes)
    assert num_writes >= 4  # two shards that somebody comes to, two that somebody leaves
    for stop_at in range(1, num_writes + 1):
        output = f"output=torn{stop_at}"
        writes.clear()
        assert call(prepare, *WORDS, output) == 130
        assert call(prepare, *WORDS, output) == 0
        torn = {path.name: path.read_bytes() for path in Path(f"torn{stop_at}").iterdir()}
        del torn["prepare.yaml"]
        assert torn == whole, stop_at


def test_sentences_about_people_name_their_split(call, unusable, capsys):
    unusable.update(NAMES)
    options = PeopleOptions(source="folders", root="photos", num_val_identities=2, num_test_identities=2)
    for split, num in (("val", 2), ("train", 4)):
        with pytest.warns(UserWarning, match="no face"), pytest.raises(FaceError, match=f"none of the {num} {split}"):
            People(options).faces(split)[0]
    unusable.clear()
    unusable.update("abcdef")
    assert call(prepare, *WORDS) == 0
    words = ["faces.source=shards", "faces.root=shards", "faces.target=same", "faces.num_val_identities=1"]
    assert call(pretrain, *words) == 2
    assert "error: shards has no val identities, expected at least one" in capsys.readouterr().err
