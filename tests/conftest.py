"""What several tests share: a tiny base of random weights, built once per session."""

from pathlib import Path

import pytest
import torch
from tiny import save_tiny_base

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """Folder of a tiny Stable Diffusion: 64 px, 8x8 latents."""
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def tiny_diffusion(tiny_base):
    """That base, loaded; a fresh copy for each test, which may put LiDB layers into it."""
    from hdb.diffusion import StableDiffusion

    return StableDiffusion.from_pretrained(tiny_base)
