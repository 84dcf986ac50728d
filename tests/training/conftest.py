"""A tiny base with LiDB layers in it, latents of nobody in particular, and a Trainer that leaves no traces."""

import lightning as L
import pytest
import torch

from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout


@pytest.fixture
def lidb(tiny_diffusion) -> LiDB:
    unet, text_encoder = tiny_diffusion.unet, tiny_diffusion.text_encoder
    layout = Layout.of(unet=unet, text_encoder=text_encoder, a=6, b=4)
    return LiDB(unet=unet, text_encoder=text_encoder, layout=layout)


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
