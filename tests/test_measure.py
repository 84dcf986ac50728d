"""What the report of shipped weights says of the hypernetwork."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from experiments import measure, pretrain
from hdb.config import TrainBase
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet


def test_a_shipped_hypernetwork_is_measured_on_test_people_as_its_training_validates(
    call, tiny_weights, tiny_diffusion, monkeypatch
):
    assert call(pretrain, "faces.num_val_identities=5", "linear_lr=0.1", "num_val_draws=3") == 0
    expected = json.loads(Path("outputs/pretrain/metrics.json").read_text())
    weights = Path("weights")
    weights.mkdir()
    (weights / "encoder").symlink_to(tiny_weights / "encoder")
    encoder = FaceEncoder.from_folder(weights / "encoder")
    hypernet = HyperNet.from_checkpoint("outputs/pretrain/last.ckpt", encoder=encoder)
    hypernet.save(weights / "hypernet", include_encoder=False, dtype=torch.float32)

    # The people that training validated on are the test people here: the same numbers must come out.
    monkeypatch.setattr(measure, "SPLITS", {"test": range(20, 30)})
    config = TrainBase(
        root=f"{tiny_weights}/data",
        weights=str(weights),
        resolution=32,
        num_workers=0,
        num_measured=5,
        accelerator="cpu",
        pretrain="mine.yaml",
    )
    settings = {
        "faces": {"source": "faceworld", "target": "all", "views_per_identity": 4, "batch_size": 2},
        "timesteps": "high_noise",
        "num_val_draws": 3,
    }

    def measured(**changes: str) -> dict[str, float]:
        Path("mine.yaml").write_text(yaml.safe_dump(settings | changes))
        (row,) = measure.hypernetwork(config, tiny_diffusion).values()
        return row

    row = measured()
    assert row["own_minus_other"] == pytest.approx(expected["val/own_minus_other"], rel=1e-4)
    assert row["ci95"] == pytest.approx(expected["val/own_minus_other_ci95"], rel=1e-4)
    assert row["own_better"] == pytest.approx(expected["val/own_better"])
    assert row["own_minus_other"] != 0
    assert measured(timesteps="uniform") != row
    assert measured() == row
