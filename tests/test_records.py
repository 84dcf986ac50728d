"""What an evaluation leaves at Weights & Biases."""

import json
from pathlib import Path
from types import SimpleNamespace

from tiny import tiny_judges
from white_noise import evaluation

from experiments.evaluate import log_evaluation
from hdb.runs.logger import SafeWandbLogger


def test_an_evaluation_is_means_a_grid_its_tables_and_an_artifact(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))
    judges = tiny_judges(tiny_weights)
    outcome = evaluation(tmp_path / "eval", judges, size=(2, 1, 1), num_methods=3, side=32)
    names = ("results.json", "report.html", "tradeoff.png", "grid.png", "people.jpg")
    files = [tmp_path / "eval" / name for name in names]
    metrics, images, tables, artifacts = {}, {}, {}, []
    run = SimpleNamespace(log=tables.update, log_artifact=lambda artifact, aliases: artifacts.append(artifact))
    logger = SafeWandbLogger(experiment=run)
    monkeypatch.setattr(logger, "log_metrics", metrics.update)
    monkeypatch.setattr(logger, "log_image", images.__setitem__)
    log_evaluation(logger, files, outcome)
    results = json.loads(files[0].read_text())
    assert metrics["eval/oracle/dino"] == results["methods"]["oracle"]["dino"]["mean"]
    assert images["eval/grid"] == [outcome.grid]
    assert {name: (of.columns, of.data) for name, of in tables.items()} == {
        f"eval/{table.title}": (list(table.columns), [list(row) for row in table.rows]) for table in outcome.tables
    }
    (artifact,) = artifacts
    assert (artifact.type, artifact.metadata) == (
        "evaluation",
        {"base": "noise", "base_digest": "0", "hypernetwork": "none"},
    )
    stored = {name: Path(entry.local_path).read_bytes() for name, entry in artifact.manifest.entries.items()}
    assert stored == {path.name: path.read_bytes() for path in files}
