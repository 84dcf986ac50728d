"""A tiny frozen UNet and text encoder for each test, and their layout with narrow bases."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from hdb.lidb.layout import Layout

SD15 = Path(__file__).parents[2] / "configs" / "sd15"


@pytest.fixture(scope="session")
def sd15():
    """Stable Diffusion 1.5 on the meta device, from its published configuration."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads((SD15 / "unet.json").read_text()))
        text_encoder = CLIPTextModel(CLIPTextConfig(**json.loads((SD15 / "text_encoder.json").read_text())))
    return {"unet": unet, "text_encoder": text_encoder}


@pytest.fixture(scope="session")
def sd15_layout(sd15) -> Layout:
    return Layout.from_models(sd15)


@pytest.fixture
def models(tiny_diffusion):
    return dict(tiny_diffusion.components)


@pytest.fixture
def layout(models) -> Layout:
    return Layout.from_models(models, a=6, b=3)


@pytest.fixture
def people(layout) -> torch.Tensor:
    """Theta of three people, strong enough to change every output."""
    generator = torch.Generator().manual_seed(1)
    return layout.initial_theta() + 0.3 * torch.randn(3, layout.size, generator=generator)
