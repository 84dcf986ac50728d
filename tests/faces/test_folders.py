"""Folders as people have them: whose pictures are found, whose files are passed over, and what is said of the rest."""

import os
import warnings
from pathlib import Path

import pytest
from gray import png, save_gray
from photo_files import difference, encoded, put
from PIL import Image

from hdb.faces.folders import list_pictures
from hdb.faces.photos import flat_folder, identity_folders
from hdb.faces.picture import FaceError, open_picture

PICTURE = png(7)
SYSTEM_FILES = [
    *(".thumbnails/a.png", ".Trash-1000/files/a.png", ".ipynb_checkpoints/a.png", ".hidden.png", "._a.png"),
    *("@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg", "#recycle/a.png", "@Recycle/a.png", "@Recently-Snapshot/a.png"),
    *(".@__thumb/a.png", "$RECYCLE.BIN/S-1/a.png", "System Volume Information/a.png", "RECYCLER/a.png"),
    *("__MACOSX/._a.png", ".AppleDouble/a.png", ".Spotlight-V100/a.png", "lost+found/a.png", "LOST.DIR/a.png"),
    *("Catalog Previews.lrdata/a.jpg", "Thumbs.db", ".DS_Store", "desktop.ini", "Desktop.ini", "ehthumbs.db"),
    *(".picasaoriginals/a.png", ".picasa.ini", "thumbnails128x128/a.png", "Thumbnails/a.png", "Icon\r"),
    *(".Trashes/a.png", ".snapshot/a.png", ".stversions/a.png", ".git/a.png", "__pycache__/a.png", ".trashed-1.jpg"),
]
READ = ["a.JPG", "a.jpeg", "a.jpe", "a.JFIF", "a.png", "a.PNG", "a.webp", "a.gif", "a.bmp", "a.tif", "a.TIFF", "a.jp2"]
READ += ["without", "a.dat", "a.jpg_large", "a.txt", "a.jpg.bak", "a.mpo", "a [1].jpg", "a#b?.jpg", "a%20b.jpg"]
NO_PICTURES = {
    "notes.txt": b"text",
    "a.jpg.json": b"{}",
    "a.jpg.supplemental-metadata.json": b"{}",
    "a.xmp": b"<x/>",
    "a.AAE": b"<x/>",
    "a.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "a.jpg.crdownload": PICTURE,
    "a.png.part": PICTURE,
    "a.thm": PICTURE,
    "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "a.pdf": b"%PDF-1.7\n",
    "empty": b"",
    "BMW.doc": b"BMW is no picture",
}


@pytest.mark.parametrize("name", SYSTEM_FILES)
@pytest.mark.parametrize("reader", [flat_folder, identity_folders])
def test_files_of_operating_systems_are_nobody(tmp_path, reader, name):
    put(tmp_path / "anna" / "1.png", PICTURE)
    put(tmp_path / name, PICTURE)
    put(tmp_path / "anna" / name, PICTURE)
    people = reader(tmp_path)
    assert list(people) == (["anna/1.png"] if reader is flat_folder else ["anna"])
    assert [path.name for pictures in people.values() for path in pictures] == ["1.png"]
    assert len(people.unused) == 2 and {file.reason for file in people.unused} == {"hidden or a system's own"}


@pytest.mark.parametrize("name", READ)
def test_a_picture_is_read_under_any_name(tmp_path, name):
    kind = Image.registered_extensions().get(Path(name).suffix.lower(), "PNG").replace("MPO", "JPEG")
    put(tmp_path / name, encoded(Image.new("RGB", (16, 16), (50, 50, 50)), kind))
    (picture,) = flat_folder(tmp_path)[name]
    assert difference(open_picture(picture), Image.new("RGB", (16, 16), (50, 50, 50))) < 2


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_is_named(tmp_path, name):
    put(tmp_path / "1.png", PICTURE)
    put(tmp_path / name, NO_PICTURES[name])
    with pytest.warns(UserWarning, match="1 files in .* are not used: "):
        people = flat_folder(tmp_path)
    assert list(people) == ["1.png"] and [Path(file.path).name for file in people.unused] == [name]


def test_pictures_of_formats_that_are_not_read_are_listed_to_be_refused_by_name(tmp_path):
    names = ["a.cr2", "a.heic", "a.jpg", "a.jxl", "a.psd", "a.svg"]
    for name in names:
        put(tmp_path / name, b"")
    assert [path.name for path in list_pictures(tmp_path).pictures] == names


LINKS = {
    "a folder elsewhere": (("people/carl", "elsewhere"), ["anna", "bert", "carl"]),
    "a folder in a person's": (("people/anna/more", "elsewhere"), ["anna", "anna", "bert"]),
    "a file elsewhere": (("people/bert/more.png", "elsewhere/9.png"), ["anna", "bert", "bert"]),
    "another person's folder": (("people/aaa", "people/bert"), ["anna", "bert"]),
    "another person's file": (("people/anna/0.png", "people/bert/2.png"), ["anna", "bert"]),
    "the folder itself": (("people/anna/loop", "people"), ["anna", "bert"]),
    "its own folder": (("people/anna/loop", "people/anna"), ["anna", "bert"]),
    "a folder above": (("people/above", "."), ["anna", "bert"]),
    "nowhere": (("people/anna/gone.png", "gone.png"), ["anna", "bert"]),
    "itself": (("people/anna/self.png", "people/anna/self.png"), ["anna", "bert"]),
}


@pytest.mark.parametrize("case", LINKS)
@pytest.mark.filterwarnings("ignore:.* files in .* are not used")
def test_links_are_followed_once(tmp_path, case):
    (link, target), expected = LINKS[case]
    for name, content in (("people/anna/1", 1), ("people/bert/2", 2), ("elsewhere/9", 9)):
        put(tmp_path / f"{name}.png", png(content))
    (tmp_path / link).symlink_to(tmp_path / target)
    people, flat = identity_folders(tmp_path / "people"), flat_folder(tmp_path / "people")
    assert [name for name, pictures in people.items() for _ in pictures] == expected
    assert len(flat) == len(expected) and len(flat.unused) == (len(expected) == 2)


def test_pipes_and_sockets_are_named_and_not_waited_for(tmp_path):
    put(tmp_path / "1.png", PICTURE)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.warns(UserWarning, match="pipe.jpg: no regular file"):
        assert list(flat_folder(tmp_path)) == ["1.png"]
    with pytest.raises(FaceError, match="pipe.jpg: is no file; expected a picture"):
        open_picture(tmp_path / "pipe.jpg")


def test_a_persons_further_folders_are_theirs_and_a_folder_of_folders_is_named(tmp_path):
    for name in ("anna/1", "anna/2019/2", "carl/2019/3", "train/dora/4", "train/emil/5", "6"):
        put(tmp_path / f"{name}.png", PICTURE)
    with pytest.warns(UserWarning, match="3 files in"):
        people = identity_folders(tmp_path)
    assert {name: len(pictures) for name, pictures in people.items()} == {"anna": 2, "carl": 1}
    assert [Path(file.path).name for file in people.unused] == ["6.png", "4.png", "5.png"]


def test_a_flat_folder_may_be_a_tree_and_identities_are_called_by_their_path(tmp_path):
    # FFHQ comes as 00000/00000.png
    for name in ("00000/00000.png", "00000/00001.png", "01000/00000.png", "01000/._00000.png"):
        save_gray(tmp_path / name, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # hidden files need no remark
        assert list(flat_folder(tmp_path)) == ["00000/00000.png", "00000/00001.png", "01000/00000.png"]
