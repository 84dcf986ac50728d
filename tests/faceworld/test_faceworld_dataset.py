"""The cache of pictures: rendered in parallel, resumed after an interruption, separate for different pixels."""

import subprocess
import sys

import numpy as np
import pytest

import hdb.faceworld.dataset as dataset_module
from hdb.faceworld.dataset import LABEL_NAMES, FaceWorldDataset


def tiny(root, **changes) -> FaceWorldDataset:
    """Four people in two views of 16 pixels: two files of two people."""
    arguments = {"indices": range(4), "views_per_identity": 2, "resolution": 16} | changes
    return FaceWorldDataset(root, **arguments)


@pytest.fixture(autouse=True)
def two_people_per_file(monkeypatch):
    monkeypatch.setattr(dataset_module, "PEOPLE_PER_FILE", 2)


def test_interrupted_rendering_resumes_where_it_stopped(tmp_path, monkeypatch):
    interrupted = tiny(tmp_path / "interrupted")
    render, calls = interrupted.world.render, []

    def render_once(pairs):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return render(pairs)

    monkeypatch.setattr(interrupted.world, "render", render_once)
    with pytest.raises(KeyboardInterrupt):
        interrupted.prepare(0, progress=False)
    assert interrupted.missing == [(1, 0)]
    first = interrupted.folder / "people-00000-views-00.npy"
    written = first.stat().st_mtime_ns
    assert list(interrupted.folder.iterdir()) == [first]
    with pytest.raises(ValueError, match="call prepare"):
        interrupted.image(2, 0)

    resumed = tiny(tmp_path / "interrupted")
    resumed.prepare(0, progress=False)
    whole = tiny(tmp_path / "whole")
    whole.prepare(0, progress=False)
    assert first.stat().st_mtime_ns == written
    assert np.array_equal(resumed.images, whole.images)


def test_processes_draw_the_same_pictures_as_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "PEOPLE_PER_FILE", 8)  # what a spawned process has
    alone, parallel = tiny(tmp_path / "alone"), tiny(tmp_path / "parallel")
    alone.prepare(0, progress=False)
    parallel.prepare(1, progress=False)
    assert np.array_equal(alone.images, parallel.images)


def test_cached_pictures_are_the_worlds_pictures(tmp_path):
    dataset = tiny(tmp_path, indices=[7, 3, 11], views_per_identity=3)
    dataset.prepare(0, progress=False)
    for i, person in enumerate((7, 3, 11)):
        view = dataset.view(i, 2)
        assert view == dataset.world.view(person, 2)
        drawn = dataset.world.render([(dataset.world.identity(person), view)])[0].numpy() * 255
        assert np.abs(dataset.image(i, 2) - drawn).max() <= 0.51
        assert np.array_equal(dataset.images[i, 2], dataset.image(i, 2))


def test_labels_name_what_the_view_shows(tmp_path):
    dataset = tiny(tmp_path, indices=range(30), views_per_identity=12)
    for i in range(30):
        for j in range(12):
            names = [vocabulary[label] for vocabulary, label in zip(LABEL_NAMES, dataset.labels(i, j), strict=True)]
            view = dataset.view(i, j)
            assert names == [view.style, view.context, view.accessory, view.expression]


def test_different_pixels_live_in_different_folders(tmp_path):
    datasets = [tiny(tmp_path), tiny(tmp_path, seed=1), tiny(tmp_path, resolution=32)]
    assert len({dataset.folder for dataset in datasets}) == 3


def test_datasets_of_other_people_and_views_share_files(tmp_path):
    tiny(tmp_path, indices=range(4), views_per_identity=4).prepare(0, progress=False)
    fewer = tiny(tmp_path, indices=[3, 1], views_per_identity=2)
    assert fewer.missing == []
    assert fewer.images.shape == (2, 2, 3, 16, 16)
    assert np.array_equal(fewer.image(0, 1), tiny(tmp_path, indices=range(4)).image(3, 1))
    assert np.array_equal(fewer.images[1, 1], fewer.image(1, 1))
    assert tiny(tmp_path, indices=range(5), views_per_identity=4).missing == [(2, 0), (2, 1)]


def test_a_file_of_other_pictures_is_refused(tmp_path):
    dataset = tiny(tmp_path)
    dataset.prepare(0, progress=False)
    np.save(dataset.folder / "people-00000-views-00.npy", np.zeros((2, 3, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"holds uint8 \(2, 3, 3, 8, 8\), expected uint8 \(2, 3, 3, 16, 16\)"):
        dataset.image(0, 0)


def test_training_captions_come_from_the_given_generator(tmp_path):
    dataset = tiny(tmp_path)
    one, other = ([dataset.caption(i, 1, rng=np.random.default_rng(seed)) for i in range(4)] for seed in (4, 4))
    assert one == other
    assert len({dataset.caption(0, 1, rng=np.random.default_rng(seed)) for seed in range(30)}) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "either split or indices"),
        ({"indices": None}, "either split or indices"),
        ({"indices": None, "split": "dev"}, "split is 'dev', expected one of train, val, test"),
        ({"indices": []}, "got 0 identities with 2 views"),
        ({"views_per_identity": 0}, "got 4 identities with 0 views"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path, **arguments)


def test_rendering_processes_load_no_library_of_training():
    code = "import hdb.faceworld.dataset, sys; print(*{'diffusers', 'lightning', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
