"""What of a person leaves the machine with W&B: numbers, unless more is asked for."""

from pathlib import Path

import pytest
from PIL import Image

from experiments import faceworld, personalize


def logged() -> bytes:
    """All that W&B would upload, in one piece."""
    return b"".join(path.read_bytes() for path in Path("outputs").rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [False, True])
def test_photo_name_and_weights_are_logged_only_where_they_are_to_be_shared(share, call, tiny_weights, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert call(faceworld, "portrait=annette.png", "resolution=64", "identity=0") == 0
    words = ["reference=annette.png", "output=zoe.safetensors", "consent=by-annette", "source=annettes-phone"]
    words += [f"hypernet={tiny_weights}/hypernet", f"wandb.share_subject={str(share).lower()}"]
    assert call(personalize, *words) == 0
    said, names = logged(), [str(path) for path in Path("outputs").rglob("*")]
    assert b"train/diffusion_loss" in said and b"personalize/seconds" in said
    assert (b"annette" in said) == (b"zoe" in said) == share
    assert any("media/images" in name for name in names) == share
    assert Path("zoe.safetensors").is_file() and Image.open("zoe.png").size[0] > 0  # here they are
