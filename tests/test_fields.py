"""Settings of pretraining: the files they write, starting from another run, and refused combinations."""

import json
import re
from pathlib import Path

import pytest
import torch

from experiments import pretrain
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import load_face_encoder
from hdb.runs.logger import SafeWandbLogger


def test_a_run_saves_its_best_checkpoint_and_another_run_starts_from_it(call, tiny_weights, monkeypatch):
    uploaded = {}
    monkeypatch.setattr(
        SafeWandbLogger,
        "log_artifact",
        lambda self, name, *files, type, metadata: uploaded.update({name: (type, files, metadata)}),
    )
    words = [
        "schedule.ema_decay=0.5",
        "schedule.best_metric=val/face_rec",
        "schedule.accumulate_grad_batches=2",
        "schedule.max_steps=2",
        "schedule.val_every=1",
    ]
    assert call(pretrain, *words, "linear_lr=1e-2", "warmup_steps=0", "condition_dropout=0.5") == 0
    scores = json.loads(Path("outputs/pretrain/metrics.json").read_text())
    assert {"val/face_rec", "val/dino", "val/clip_i", "val/clip_t", "best", "step"} <= set(scores)
    assert scores["step"] == 2 and scores["best"] >= scores["val/face_rec"] - 1e-6
    assert Path("outputs/pretrain/best.ckpt").is_file() and Path("outputs/pretrain/preview.png").is_file()
    assert uploaded == {}

    assert (
        call(
            pretrain,
            "init_from=outputs/pretrain",
            "output=second",
            "schedule.max_steps=1",
            "linear_lr=1e-12",
            "upload=true",
        )
        == 0
    )
    encoder = load_face_encoder(f"{tiny_weights}/encoder")
    first = HyperNet.from_checkpoint(Path("outputs/pretrain/last.ckpt"), encoder=encoder)
    second = HyperNet.from_checkpoint(Path("second/last.ckpt"), encoder=encoder)
    torch.testing.assert_close(second.mean, first.mean)
    assert first.mean.abs().max() > 1e-4
    kind, files, about = uploaded["second"]
    assert kind == "hypernet" and {path.name for path in files} == {"config.json", "model.safetensors"}
    assert "val/face_rec" in about


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("init_from=nowhere", "a hypernetwork needs config.json and model.safetensors: nowhere/config.json is missing"),
        ("schedule.best_metric=train/loss", "best_metric is 'train/loss', expected one of val/face_rec"),
        (
            "schedule.best_metric=val/own_better beta=0 faces.num_val_identities=1",
            "faces.num_val_identities is 1, expected at least 2",
        ),
        ("instance_prompt=a face", "instance_prompt is 'a face', expected one with .V. in it"),
        (
            "cached=true faces.source=flat",
            "beside shards, or encodes those of faceworld: expected faces.source=shards or faceworld, not flat",
        ),
        (
            "cached=true faces.source=shards gamma=0 hypernet.freeze_encoder=false",
            "cached=true needs an encoder that stays",
        ),
        ("schedule.ema_decay=1", "ema_decay is 1.0, expected 0 to 0.99999"),
        ("schedule.accumulate_grad_batches=0", "accumulate_grad_batches is 0, expected at least 1"),
        ("condition_dropout=2", "condition_dropout is 2.0, expected 0 to 1"),
    ],
)
def test_conflicting_settings_are_refused_before_anything_is_read(call, words, message, capsys):
    parts = [words] if words.startswith("instance") else words.split()
    assert call(pretrain, *parts) == 2
    assert re.search(message, capsys.readouterr().err)
