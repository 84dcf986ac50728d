"""A whole evaluation without a base: everything that it leaves behind, from pictures of white noise."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_judges
from white_noise import evaluation

from hdb.evaluation.summary import logged_means
from hdb.metrics.embedders import EMBEDDERS, EmbedderEntry
from hdb.metrics.judges import Judges
from hdb.metrics.table import METRICS, JudgeOptions, MetricEntry

SIZE = (3, 2, 2)


@pytest.fixture(scope="module")
def judges(tiny_weights) -> Judges:
    return tiny_judges(tiny_weights)


def test_an_evaluation_leaves_results_page_plot_and_grid_and_goes_on_with_its_pictures(judges, tmp_path):
    outcome = evaluation(tmp_path, judges, size=SIZE, num_methods=4, side=32)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == json.loads(json.dumps(outcome.results))
    assert len(results["methods"]) == 4 and results["protocol"]["gallery"] == 6
    first = results["methods"]
    for entry in first.values():  # noise of the same seeds, whatever the method
        assert all(entry[score]["mean"] == first["hyperdreambooth"][score]["mean"] for score in METRICS)
    for score in METRICS:
        assert results["paired"]["unpersonalized"][score] == {"mean": 0.0, "ci95": [0.0, 0.0]}
        assert not results["scale"][score]["apart"] and first["oracle"][score]["normalized"] is None
        assert first["oracle"][score]["reason"] == "not told apart by this judge"
    page = (tmp_path / "report.html").read_text()
    assert "not told apart by this judge" in page and "a [V] face number 1" in page
    for name in ("tradeoff.png", "grid.png", "people.jpg", "manifest.jsonl"):
        assert (tmp_path / name).stat().st_size > 500
    assert Image.open(tmp_path / "people.jpg").size == (3 * 32, 3 * 32)  # three people; the reference and two prompts
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("images/[!r]*/*/*.png")}
    assert len(kept) == 4 * 3 * 2 * 2
    gone = Path(next(iter(kept)))
    gone.unlink()
    again = evaluation(tmp_path, judges, size=SIZE, num_methods=4, side=32)
    written = {path for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert written and {path.parent for path in written} == {gone.parent}  # the batch that it was in
    assert again.results == outcome.results


def test_a_new_metric_is_in_results_tables_page_and_log(tiny_weights, tmp_path, monkeypatch):
    class MeanColor(torch.nn.Module):
        """A network of its own, and one line in each list."""

        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    def distance(generated: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return (generated - references).norm(dim=1)

    monkeypatch.setattr(JudgeOptions, "color", "", raising=False)
    monkeypatch.setitem(EMBEDDERS, "color", EmbedderEntry(lambda source: MeanColor(), lambda source: None))
    monkeypatch.setitem(METRICS, "color", MetricEntry("color", score=distance, higher_is_better=False))
    outcome = evaluation(tmp_path, tiny_judges(tiny_weights), size=(2, 1, 1), num_methods=3, side=32)
    entry = json.loads((tmp_path / "results.json").read_text())["methods"]["hyperdreambooth"]
    pictures = outcome.pictures
    expected = [
        (pictures.read("hyperdreambooth", person, 0) - pictures.people.references[person, 0]).mean((1, 2)).norm().item()
        for person in range(2)
    ]
    assert entry["color"]["per_identity"] == pytest.approx(expected, abs=1e-4)
    scores, differences = outcome.tables[:2]
    assert scores.columns[1:6] == differences.columns[1:6] == list(METRICS)
    assert "<th>color</th>" in (tmp_path / "report.html").read_text()
    assert logged_means(outcome.results["methods"])["eval/oracle/color"] > 0


def test_an_evaluation_of_one_person_has_no_interval_anywhere(judges, tmp_path):
    outcome = evaluation(tmp_path, judges, size=(1, 2, 1), num_methods=3, side=32)
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    for entry in results["methods"].values():
        intervals = [entry["rank_1"]["all"], *(entry[metric] for metric in METRICS)]
        assert all(interval["ci95"] is None and 0 <= abs(interval["mean"]) <= 1 for interval in intervals)
    assert not any("[0" in cell or "95 %" in cell for table in outcome.tables for row in table.rows for cell in row)
    page = (tmp_path / "report.html").read_text()
    assert "1 unseen person × 2 prompts" in page and "95 %" not in page
