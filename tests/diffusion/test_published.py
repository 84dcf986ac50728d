"""Every version of diffusers and transformers reads our folders and computes the same values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from hdb.diffusion.published import publish_tokenizer
from hdb.diffusion.stable_diffusion import StableDiffusion

SHIPPED = Path("hdb/faceworld/weights/base")
PROMPT = "a photo of a [V] face in the snow"


@pytest.fixture
def written(tiny_diffusion, tmp_path) -> Path:
    """A folder that `StableDiffusion.save` wrote in half precision."""
    return tiny_diffusion.half().save(tmp_path / "written", metadata={})


def test_the_shipped_base_loads_without_arguments_and_gives_golden_values():
    # Golden values with transformers 4.56.0 and diffusers 0.35.0 as with 5.24.0 and 0.42.1.
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED)
    pipeline.set_progress_bar_config(disable=True)
    ids = pipeline.tokenizer([PROMPT]).input_ids[0]
    assert ids == [0, 124, 424, 291, 124, 126, 127, 140, 257, 267, 320, 436, 1]
    embeds = pipeline.encode_prompt(PROMPT, "cpu", 1, False)[0].detach()
    expected = [[-0.408497, 0.199088, -0.386452, 1.036146], [-0.436611, 0.317671, -0.585934, 0.761682]]
    torch.testing.assert_close(embeds[0, [1, 5], :4], torch.tensor(expected), atol=1e-4, rtol=0)
    output = pipeline(
        "a photo of a face", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np"
    )
    assert np.abs(output.images[0][::32, ::32, 0] - [[0.6537, 0.6438], [0.7592, 0.7792]]).max() < 5e-3


@pytest.mark.parametrize("name", ["shipped", "written"])
def test_folders_have_both_forms_of_the_tokenizer_and_published_names(name, written):
    folder = SHIPPED if name == "shipped" else written
    assert {"tokenizer.json", "vocab.json", "merges.txt"} <= {path.name for path in (folder / "tokenizer").iterdir()}
    assert all(key.startswith("text_model.") for key in load_file(folder / "text_encoder" / "model.safetensors"))
    assert json.loads((folder / "text_encoder" / "config.json").read_text())["dtype"] == "float32"


def test_either_form_of_the_tokenizer_alone_gives_the_same_tokens(written):
    texts = [PROMPT, "a [V] face, oil painting", "", "zz!?"]
    folder = written / "tokenizer"
    expected = CLIPTokenizer.from_pretrained(folder)(texts).input_ids
    fast_tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    assert CLIPTokenizer.from_pretrained(folder)(texts).input_ids == expected
    publish_tokenizer(folder)  # as for a folder that an older version wrote
    rewritten = json.loads((folder / "tokenizer.json").read_text())
    assert rewritten["model"]["vocab"] == fast_tokenizer["model"]["vocab"]


def test_a_base_written_in_half_precision_loads_and_samples_without_arguments(written, tiny_diffusion):
    pipeline = StableDiffusionPipeline.from_pretrained(written)
    pipeline.set_progress_bar_config(disable=True)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert np.isfinite(pipeline("a face", num_inference_steps=2, output_type="np").images[0]).all()
    assert {tensor.dtype for tensor in load_file(written / "text_encoder" / "model.safetensors").values()} == {
        torch.float16
    }
    assert StableDiffusion.from_pretrained(written).digest == tiny_diffusion.digest
