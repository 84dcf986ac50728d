"""Fixtures of the stages: a tiny base with LiDB layers, random latents, a tiny hypernetwork, a silent Trainer."""

import lightning as L
import pytest
import torch

from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions


@pytest.fixture
def personalized(tiny_diffusion) -> PersonalizedDiffusion:
    return PersonalizedDiffusion(tiny_diffusion, build_layout(tiny_diffusion, LiDBOptions(a=6, b=4)))


@pytest.fixture
def lidb(personalized) -> LiDB:
    return personalized.lidb


@pytest.fixture
def latents(tiny_diffusion) -> torch.Tensor:
    """Three people with two views each."""
    return torch.randn(3, 2, *tiny_diffusion.latent_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def build_encoder():
    def build() -> FaceEncoder:
        vit = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 6}
        return FaceEncoder(vit, resolution=16)

    return build


@pytest.fixture
def hypernet(lidb, build_encoder):
    """Builds a hypernetwork with its initial weights."""

    def build(*, layout: Layout | None = None, iterations: int = 2, linear_path: bool = True, **options) -> HyperNet:
        layout = layout or lidb.layout
        encoder = build_encoder()
        decoder = WeightDecoder(layout, encoder, width=8, num_heads=2)
        return HyperNet(encoder, decoder, layout, iterations=iterations, linear_path=linear_path, **options)

    return build


@pytest.fixture
def trainer(tmp_path):
    def build(**options) -> L.Trainer:
        quiet = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return L.Trainer(**{**quiet, **options})

    return build
