"""Records of trainings, and the report beside the weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import base
from hdb.faceworld.base.report import markdown, training_records
from hdb.faceworld.view import sample_view
from hdb.training.curves import curves_sheet, read_curve, running_mean

WORDS = ["resolution=64", "num_identities=2", "views_per_identity=6", "num_workers=0", "accelerator=cpu"]
PARTS = ["parts=[encoder,classifier]", "encoder.steps=2", "classifier.steps=3", "classifier.batch_size=4"]


def test_a_part_writes_its_curve_and_a_record_of_its_data(call, tmp_path):
    words = [*WORDS, *PARTS, f"root={tmp_path}/data"]
    assert call(base, *words) == 0
    run = Path("outputs/base/classifier")
    assert [step for step, _ in read_curve(run)] == [1, 2, 3]
    pairs = {(view.style, view.context) for view in (sample_view(0, p, v) for p in range(2) for v in range(6))}
    done = {name: Path("outputs/base", name, "done.json") for name in ("encoder", "classifier")}
    data = {name: json.loads(path.read_text())["seen"] for name, path in done.items()}
    assert data["classifier"] == {
        "identities": [0, 1],
        "pictures": 12,
        "styles": sorted({style for style, _ in pairs}),
        "pairs": len(pairs),
    }
    assert data["encoder"] == {"identities": [0, 1], "pictures": 4, "styles": ["photo"], "pairs": 1}  # plain views


def test_the_record_of_a_training_counts_for_its_own_weights_only(call, tmp_path):
    assert call(base, *WORDS, *PARTS, f"root={tmp_path}/data") == 0
    weights, run = Path("outputs/base/weights"), Path("outputs/base/classifier")
    trainings = {"classifier": (run, "classifier"), "hypernetwork": (Path("pretrain"), "hypernet")}
    trained, curves = training_records(weights, trainings)
    assert list(trained) == list(curves) == ["classifier"]
    assert trained["classifier"]["steps"] == 3 and [step for step, _ in curves["classifier"]] == [1, 2, 3]
    assert training_records(weights, {"classifier": (run, "encoder")}) == ({}, {})

    (weights / "report.json").write_text(json.dumps({"trained": {"classifier": {"steps": 7}, "text": {"steps": 8}}}))
    trained, _ = training_records(weights, {})  # as in a clone, where no training lies
    assert trained == {"classifier": {"steps": 7}, "text": {"steps": 8}}
    trained, _ = training_records(weights, trainings)
    assert trained["classifier"]["steps"] == 3 and trained["text"] == {"steps": 8}


def test_the_record_of_a_hypernetwork_counts_for_its_own_weights_and_faceworld_only(tmp_path):
    run, weights = tmp_path / "pretrain", tmp_path / "weights"
    for folder in (run / "hypernet", weights / "hypernet"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"the same")
    (run / "metrics.json").write_text(json.dumps({"step": 9, "seconds": 3.6}))
    (run / "curve.json").write_text("[[1, 0.5]]")
    splits = {"train": ["2", "0", "1"], "val": ["5"], "test": ["7"], "data": "faceworld of seed 0"}
    (run / "splits.json").write_text(json.dumps(splits))
    trainings = {"hypernetwork": (run, "hypernet")}
    trained, curves = training_records(weights, trainings)
    record = trained["hypernetwork"]
    assert (record["steps"], record["seconds"], record["seen"]) == (9, 4, {"identities": [0, 2]})
    assert curves == {"hypernetwork": [[1, 0.5]]}
    (run / "splits.json").write_text(json.dumps(splits | {"data": "photos"}))
    assert training_records(weights, trainings) == ({}, {})
    (run / "splits.json").write_text(json.dumps(splits))
    (weights / "hypernet" / "model.safetensors").write_bytes(b"another")
    assert training_records(weights, trainings) == ({}, {})


def test_the_report_shows_the_pictures_that_exist(tmp_path):
    data = {"identities": [0, 1999], "pictures": 24000, "styles": ["photo", "oil"], "pairs": 9}
    trained = {
        "dino": {"steps": 4, "seconds": 5, "seen": data},
        "hypernetwork": {"steps": 6, "seconds": 7, "seen": {"identities": [0, 9]}},
    }
    report = {"resolution": 64, "device": "2 CPU cores", "measured": {"dino": {"auc": 0.75}}, "trained": trained}
    (tmp_path / "samples.png").touch()
    page = markdown(report, tmp_path)
    assert "| dino | auc | 0.750 |" in page
    assert "| dino | 4 | 5 | 0 to 1999 | 24000 | 2 | 9 |" in page
    assert "| hypernetwork | 6 | 7 | 0 to 9 |  |  |  |" in page
    assert "(samples.png)" in page and "subjects.png)" not in page and "curves.png" not in page
    (tmp_path / "subjects.png").touch()
    (tmp_path / "notes.md").write_text("Ears are missing.\n")
    (tmp_path / "ablations.md").write_text("| k 1 |\n")
    page = markdown(report, tmp_path)
    assert page.index("(samples.png)") < page.index("(subjects.png)") < page.index("k 1")
    assert page.index("k 1") < page.index("Ears are missing.") == len(page) - len("Ears are missing.\n")


def test_a_falling_loss_is_drawn_from_the_upper_left_to_the_lower_right_of_its_own_panel():
    falling = [[step, 1 / step] for step in range(1, 50)]
    sheet = np.array(curves_sheet({"one": falling, "two": [[1, 0.0], [50, 1.0]], "three": falling}))
    blue = sheet[..., 2].astype(int) - sheet[..., 0] > 60
    height, width = blue.shape[0] // 2, blue.shape[1] // 2
    for panel, falls in ((blue[:height, :width], True), (blue[:height, width:], False), (blue[height:, :width], True)):
        rows, columns = panel.nonzero()
        assert (rows[columns.argmin()] < rows[columns.argmax()]) == falls
    assert not blue[height:, width:].any()
    assert (sheet[height:, :width] == sheet[:height, :width]).mean() > 0.98  # but for the name


def test_a_running_mean_keeps_straight_lines_and_levels_what_alternates():
    line = [float(k) for k in range(100)]
    assert running_mean(line)[10:-10] == pytest.approx(line[10:-10])
    assert max(map(abs, running_mean([(-1.0) ** k for k in range(100)])[10:-10])) < 0.1
    assert running_mean([3.0, 5.0]) == [3.0, 5.0]


@pytest.mark.parametrize("curves", [{}, {"dino": []}])
def test_a_curve_without_points_is_refused(curves):
    with pytest.raises(ValueError, match="(dino|no training at all) has no points of loss, expected at least one each"):
        curves_sheet(curves)
