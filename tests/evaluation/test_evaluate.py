"""A whole evaluation without a base: everything that it leaves behind, from pictures of white noise."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_judges
from white_noise import evaluation

from hdb.metrics.judges import Judges
from hdb.metrics.table import METRICS

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
