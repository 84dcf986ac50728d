"""A base in half precision under personal weights in full precision, in every stage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments import evaluate, faceworld, personalize, preoptimize, pretrain
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout, Slot
from hdb.metrics.embedders import TimmEmbedder


def test_every_stage_runs_on_a_bfloat16_base_and_stays_near_the_float32_one(call):
    half = ["base.dtype=bfloat16", "memory=low"]
    settings = {"float32": [], "mixed": [*half, "precision=bf16-mixed"], "true": half}
    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    found = {}
    for name, words in settings.items():
        assert call(preoptimize, *words, "faces.num_identities=2") == 0
        assert call(pretrain, *words, "beta=0.1", "thetas=outputs/preoptimize", "faces.num_identities=2") == 0
        assert call(personalize, *words, "reference=face.png", "output=me.safetensors") == 0
        thetas = load_file("outputs/preoptimize/thetas-00000.safetensors")["thetas"]
        scores = json.loads(Path("outputs/pretrain/metrics.json").read_text())
        found[name] = thetas, Subject.load("me.safetensors").theta, scores["val/diffusion_loss"]
    thetas, theta, loss = found.pop("float32")
    for half_thetas, half_theta, half_loss in found.values():
        assert half_thetas.dtype == half_theta.dtype == torch.float32
        # Two steps of at most 0.005 (preoptimize) or 0.01 (personalize) per number, on gradients of 8 bits.
        assert (half_thetas - thetas).abs().mean() < 2e-3
        assert (half_theta - theta).abs().mean() < 4e-3
        assert half_loss == pytest.approx(loss, rel=2e-2)
    assert (
        call(
            evaluate,
            *settings["mixed"],
            "methods.names=[textual_inversion,dreambooth_agg2,lora_dreambooth,only_hyper,hyperdreambooth]",
            "protocol.num_identities=1",
            "protocol.num_prompts=1",
            "protocol.num_pictures=1",
        )
        == 0
    )


def test_building_a_network_leaves_the_generators_of_gpus_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    encoder = FaceEncoder({"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2})
    WeightDecoder(Layout((Slot("unet.to_q", 8, 8, a=4, b=2),)), encoder, width=8, num_heads=2)
    TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32)
    assert not seeded
