"""Names of any bytes are written in manifests and sentences, and told apart as files."""

import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from gray import png, write_shard
from photo_files import FLAT, encoded, woman

from experiments import prepare
from hdb.faces.names import printable, to_text, unique_file_names
from hdb.faces.photos import flat_folder, identity_folders
from hdb.faces.shards import ShardFaces, list_shards
from hdb.faces.sources import PhotoFaces, identity_number

NAMES = {
    "latin-1": b"caf\xe9",
    "shift-jis": b"\x8e\xca\x90^",
    "half a letter": b"a\xc3",
    "only bytes that are none": b"\xff\xfe",
    "a line break": b"two\nlines",
    "a carriage return and a bell": b"a\r\x07b",
    "quotes and a backslash": rb"o'ne \"two\" \n",
    "right to left": "a\u202egpj".encode(),
    "combined": "e\u0301\U0001f600".encode(),
    "as long as it may be": b"x" * 250,
    "blank": b" ",
    "brackets": b"me (1) [2] {3..5} $HOME %41 #",
}


@pytest.mark.parametrize("source", ["flat", "folders"])
def test_people_of_any_name_are_prepared_trained_on_and_named(call, tmp_path, capsys, source):
    names = [os.fsdecode(name) for name in NAMES.values()]
    for number, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.png").write_bytes(encoded(woman(100 - 3 * number), "PNG"))
        (tmp_path / "photos" / name / "broken.png").write_bytes(b"broken")
    assert call(prepare, *FLAT, f"source={source}") == 0
    texts = sorted(to_text(name) + ("/a.png" if source == "flat" else "") for name in names)
    "".join(texts).encode()
    manifest, splits = (json.loads(Path("shards", name).read_text()) for name in ("manifest.json", "splits.json"))
    assert sorted(splits["train"]) == texts
    assert {name: num for people in manifest["shards"].values() for name, num in people.items()} == dict.fromkeys(
        texts, 1
    )
    rows = {row["picture"]: row["message"] for row in manifest["skipped_pictures"]}
    assert set(rows) == {f"photos/{printable(name)}/broken.png" for name in names}
    errors = capsys.readouterr().err
    assert all(message in errors for message in rows.values())
    samples = ShardFaces(list_shards("shards", split="train"), resolution=32, shuffle_size=0)
    assert {sample.identity for sample in samples} == {identity_number(text) for text in texts}
    with pytest.warns(UserWarning, match="broken.png is not a picture"):
        people = {"flat": flat_folder, "folders": identity_folders}[source]("photos")
        assert {sample.identity for sample in PhotoFaces(people, resolution=8)} <= set(map(identity_number, people))


def test_a_name_in_a_foreign_shard_that_is_no_text_is_trained_on(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1") as tar:
        for name in ("caf\xe9.png", "b.png", "c.json", "c.png"):
            content = b'{"identity": "\\ud800"}' if name == "c.json" else png(3)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    assert len({sample.identity for sample in ShardFaces(tmp_path, resolution=8, shuffle_size=0)}) == 3


FILE_NAMES = [
    (["me (1).jpg", "me [1].jpg"], ["me__1_.jpg", "me__1_.jpg-2"]),
    (["Me.jpg", "me.jpg"], ["Me.jpg", "me.jpg-2"]),
    (["a b", "a_b", "a_b-2", "a?b"], ["a_b", "a_b-3", "a_b-2", "a_b-4"]),
    (["...", "\udcff", "a/b"], ["_", "_xff", "a_b"]),
    (["x" * 300 + "1", "x" * 300 + "2"], ["x" * 100, "x" * 100 + "-2"]),
]


@pytest.mark.parametrize(("names", "expected"), FILE_NAMES)
def test_names_that_would_give_the_same_file_are_numbered(names, expected):
    assert unique_file_names(names) == expected


@pytest.mark.parametrize("name", ["a:b", "http:", "file:x", "pipe:cat", "a b#c?d%20", "x::y", "{0..3}", "$HOME", "s3:"])
def test_shards_are_read_from_a_folder_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    path = write_shard(Path(name) / "train-0.tar", {"a.png": png(3)})
    for shards in (name, Path(name), f"{path}", [str(path)]):
        assert len(list(ShardFaces(shards, resolution=8, shuffle_size=0))) == 1
