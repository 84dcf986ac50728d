"""A tiny frozen UNet and text encoder, fresh for each test, and a layout of them with narrow bases."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from hdb.lidb.layout import Layout


@pytest.fixture
def models(tiny_base):
    unet = UNet2DConditionModel.from_pretrained(tiny_base / "unet")
    text_encoder = CLIPTextModel.from_pretrained(tiny_base / "text_encoder")
    return {"unet": unet.requires_grad_(False).eval(), "text_encoder": text_encoder.requires_grad_(False).eval()}


@pytest.fixture
def layout(models) -> Layout:
    return Layout.of(**models, a=6, b=3)


@pytest.fixture
def people(layout) -> torch.Tensor:
    """Theta of three people, strong enough to change every output."""
    generator = torch.Generator().manual_seed(1)
    return layout.initial() + 0.3 * torch.randn(3, layout.size, generator=generator)
