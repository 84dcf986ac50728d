"""A tiny base with LiDB layers in it, latents of nobody in particular, and a Trainer that leaves no traces."""

import lightning as L
import pytest
import torch

from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.lidb.adapter import LiDB
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
