"""Files are written completely or not at all, whatever interrupts the writing."""

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from hdb.diffusion.sheet import save_image
from hdb.files import atomic_write, write_files, write_json, write_text
from hdb.training.checkpoints import AtomicCheckpointIO


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_renames_at_the_end_and_creates_folders(tmp_path):
    with atomic_write(tmp_path / "new" / "me.txt") as temporary:
        temporary.write_text("me")
        assert names(tmp_path / "new") == [temporary.name] != ["me.txt"]
    assert (tmp_path / "new" / "me.txt").read_text() == "me" and names(tmp_path / "new") == ["me.txt"]
    with atomic_write(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("a")
    assert names(tmp_path / "folder") == ["part"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no")])
def test_an_older_file_survives_an_interrupted_write(tmp_path, error):
    write_text(tmp_path / "me.txt", "earlier")
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        with atomic_write(tmp_path / "me.txt") as temporary:
            temporary.write_text("half")
            raise error
    assert names(tmp_path) == ["me.txt"] and (tmp_path / "me.txt").read_text() == "earlier"


def test_two_writers_have_different_temporary_names(tmp_path, monkeypatch):
    with atomic_write(tmp_path / "a") as first:
        first.touch()
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with atomic_write(tmp_path / "a") as second:
            second.touch()
            assert first != second


def test_temporary_names_fit_where_the_name_fits(tmp_path):
    name = "n" * 250
    with atomic_write(tmp_path / name) as first, atomic_write(tmp_path / name) as second:
        first.touch()
        second.touch()
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_files({path: b"1"}),
        lambda path: write_files({path.with_name("b"): b"2", path: b"1"}),
        lambda path: save_image(Image.new("RGB", (4, 4)), path),
        lambda path: AtomicCheckpointIO().save_checkpoint({}, path),
    ],
)
def test_a_full_disk_names_the_file(write, tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*me.file|me.file.*No space left on device"):
        write(tmp_path / "me.file")
    assert names(tmp_path) == []


def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch):
    write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    write_bytes = Path.write_bytes

    def write_to_full_disk(path: Path, content: bytes) -> int:
        if path.name.startswith(".a"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    with pytest.raises(OSError, match=rf"could not save 4 bytes to {tmp_path}: No space left .*; nothing was written"):
        write_files({tmp_path / "a": b"11", tmp_path / "b": b"22"})
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "b").read_bytes() == b"2"


def test_json_ends_with_a_line_break(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ]\n}\n'


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    nan, inf = float("nan"), float("inf")
    write_json(tmp_path / "a.json", {"mean": nan, "ci95": (0.5, inf), "people": [{"score": -inf}, 1, "nan", None]})
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"mean": None, "ci95": [0.5, None], "people": [{"score": None}, 1, "nan", None]}
