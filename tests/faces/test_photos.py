"""Photos, listed by person."""

import csv

import pytest
import torchvision
from gray import level, save_gray

from hdb.faces.photos import celeba, detect_source, flat_folder, identity_folders, lfw, select
from hdb.faces.sources import PhotoFaces


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


def test_empty_and_missing_folders_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        flat_folder(tmp_path / "absent")
    for read in (flat_folder, identity_folders):
        with pytest.raises(ValueError, match="holds no picture"):
            read(tmp_path)
    for read, name in ((celeba, "CelebA"), (lfw, "LFW")):
        with pytest.raises(ValueError, match=f"{name} is missing or damaged in {tmp_path}"):
            read(tmp_path)


def test_names_that_are_unknown_or_listed_twice_are_refused(folders):
    people = identity_folders(folders)
    with pytest.raises(ValueError, match="'anna' is listed twice"):
        select(people, ["anna", "bert", "anna"])
    with pytest.raises(ValueError, match="1 of 2 identities are not in the data, first 'dora'"):
        select(people, ["anna", "dora"])


def test_heic_is_listed_so_that_it_is_refused_by_name_and_not_overlooked(tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    save_gray(tmp_path / "a.png", 5)
    source = PhotoFaces(flat_folder(tmp_path), resolution=8)
    with pytest.warns(UserWarning, match="phone.HEIC is a HEIC picture"):
        assert [level(sample.reference) for sample in source] == [5, 5]  # a.png stands in
    assert source.skipped.counts == {"unreadable": 1}


def test_a_folder_is_told_by_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"holds neither \*.tar shards, nor pictures, nor folders of pictures"):
        detect_source(tmp_path)
    save_gray(tmp_path / "anna" / "0.png", 1)
    assert detect_source(tmp_path) == "folders"
    save_gray(tmp_path / "1.png", 1)
    assert detect_source(tmp_path) == "flat"
    (tmp_path / "faces-0.tar").touch()
    assert detect_source(tmp_path) == "shards"
