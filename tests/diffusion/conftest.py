"""Stable Diffusion XL, published and tiny, for the tests of its files and of what it computes."""

import copy

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from hdb.diffusion.families.table import PUBLISHED_CONFIGS
from hdb.diffusion.personalized import build_layout
from hdb.diffusion.random_base import build_random_stable_diffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject
from hdb.lidb.options import LiDBOptions


@pytest.fixture(scope="session")
def published() -> StableDiffusion:
    """The published base on the meta device."""
    folder = PUBLISHED_CONFIGS["sdxl-config"]
    return build_random_stable_diffusion(folder, device=torch.device("meta"), dtype=torch.float32)


@pytest.fixture(scope="session")
def loaded_tiny_sdxl(tiny_sdxl) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny_sdxl)


@pytest.fixture
def diffusion(loaded_tiny_sdxl) -> StableDiffusion:
    """A tiny one; a fresh copy for each test."""
    return copy.deepcopy(loaded_tiny_sdxl)


@pytest.fixture
def pipeline(tiny_sdxl) -> StableDiffusionXLPipeline:
    """The tiny one, read by diffusers."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def subject(diffusion) -> Subject:
    """A person of random weights for the tiny one."""
    layout = build_layout(diffusion, LiDBOptions(a=4, b=3, rank=2))
    noise = torch.randn(1, layout.size, generator=torch.Generator().manual_seed(1))
    metadata = {"base": diffusion.name, "base_digest": diffusion.digest, "scale": "0.8"}
    return Subject(layout.initial_theta() + 0.3 * noise, layout, metadata)
