"""Damaged pipeline folders are each refused in one sentence, and published ones are read."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from tiny import WEIGHTS

from hdb.diffusion.folder import find_pipeline
from hdb.diffusion.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    """A copy of the tiny base that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "damaged"))


def change_weights(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Applies a change to the weights file of one part."""
    tensors = load_file(folder / part / WEIGHTS[part])
    change(tensors)
    save_file(tensors, folder / part / WEIGHTS[part], {"format": "pt"})


def first_weight(tensors: dict[str, torch.Tensor]) -> str:
    return min(key for key in tensors if key.endswith("weight"))


def test_an_undamaged_folder_is_read(folder, tiny_diffusion):
    assert StableDiffusion.from_pretrained(folder).digest == tiny_diffusion.digest


def test_sharded_weights_are_read_and_a_missing_shard_is_named(folder, tiny_diffusion):
    shutil.rmtree(folder / "unet")
    tiny_diffusion.unet.save_pretrained(folder / "unet", max_shard_size="60KB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    assert StableDiffusion.from_pretrained(folder).digest == tiny_diffusion.digest
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"unet holds no weights: expected {shards[1].name}"):
        StableDiffusion.from_pretrained(folder)


def test_digest_does_not_depend_on_precision_or_the_autoencoders_decoder(folder, tiny_diffusion):
    for dtype in (torch.float16, torch.bfloat16):
        rounded = StableDiffusion.from_pretrained(folder, dtype=dtype)
        assert rounded.dtype == dtype and rounded.digest == tiny_diffusion.digest
    change_weights(folder, "vae", lambda tensors: tensors["decoder.conv_in.weight"].add_(1))
    assert StableDiffusion.from_pretrained(folder).digest == tiny_diffusion.digest
    change_weights(folder, "vae", lambda tensors: tensors["encoder.conv_in.weight"].add_(1))
    assert StableDiffusion.from_pretrained(folder).digest != tiny_diffusion.digest


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(first_weight(tensors)), "lacks tensor .*weight, one of 1: expected"),
        (lambda tensors: tensors.update(other=torch.zeros(3)), "has an unknown tensor other, one of 1: expected"),
        (
            lambda tensors: tensors.update({first_weight(tensors): torch.zeros(2, 2)}),
            r"weight has shape \(2, 2\), but config.json says \([0-9, ]+\)",
        ),
        (
            lambda tensors: tensors[first_weight(tensors)].view(-1)[:2].fill_(float("nan")),
            "weight has 2 values of [0-9]+ that are not finite, expected 0",
        ),
    ],
    ids=["missing", "extra", "shape", "nan"],
)
def test_a_tensor_that_is_wrong_is_refused_by_name(folder, part, change, message):
    change_weights(folder, part, change)
    with pytest.raises(ValueError, match=f"{part}.{WEIGHTS[part]}:? .*{message}"):
        StableDiffusion.from_pretrained(folder)


def test_weights_that_were_cut_off_are_refused_with_both_lengths(folder):
    path = folder / "unet" / WEIGHTS["unet"]
    path.write_bytes(path.read_bytes()[:-10])
    size = path.stat().st_size
    with pytest.raises(ValueError, match=f"safetensors is cut off: it has {size} bytes, expected {size + 10}"):
        StableDiffusion.from_pretrained(folder)


class _Exploding:
    def __reduce__(self):
        return os.mkdir, (str(Path.cwd() / "exploded"),)


def test_pickled_weights_are_refused_without_being_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Exploding()}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="model.ckpt is a pickled checkpoint and was not read; expected a safetensors"):
        StableDiffusion.from_pretrained(tmp_path / "model.ckpt")
    weights = folder / "unet" / WEIGHTS["unet"]
    shutil.copy(tmp_path / "model.ckpt", weights)
    with pytest.raises(ValueError, match="safetensors is a pickled checkpoint and was not read"):
        StableDiffusion.from_pretrained(folder)
    weights.rename(weights.with_suffix(".bin"))
    message = "holds the pickled diffusion_pytorch_model.bin, which was not read: expected diffusion_pytorch_model.safe"
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_single_file_cannot_be_the_config_of_another_one(tmp_path):
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(3)}, tmp_path / "v1-5.safetensors")
    with pytest.raises(
        ValueError, match="v1-5.safetensors is a single safetensors file: expected a folder in diffusers'"
    ):
        StableDiffusion.from_pretrained(tmp_path / "v1-5.safetensors", config=tmp_path / "v1-5.safetensors")


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "scheduler"])
def test_a_folder_without_a_part_is_refused_by_its_name(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=f"damaged lacks {part}: expected folders unet, vae, text_encoder, tokenizer"):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize(
    "family", ["StableDiffusionXLInpaintPipeline", "StableDiffusionInpaintPipeline", "StableDiffusion3Pipeline", None]
)
def test_another_family_of_models_is_refused_by_its_name(folder, family):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": family}))
    message = (
        f"holds a {family}: expected a StableDiffusionPipeline .*inpainting and of other families are not supported"
    )
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder)


def test_a_unet_for_inpainting_is_refused_with_both_numbers_of_channels(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    width = config["block_out_channels"][0]
    change_weights(folder, "unet", lambda tensors: tensors.update({"conv_in.weight": torch.zeros(width, 9, 3, 3)}))
    with pytest.raises(ValueError, match="takes 9 channels and the autoencoder makes 4: .*inpainting"):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_an_unreadable_index_is_refused(folder, text):
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match="model_index.json is not readable as JSON"):
        StableDiffusion.from_pretrained(folder)


def test_deprecated_tensor_names_of_the_published_stable_diffusion_15_are_read(folder):
    # Its text encoder stores position ids, and its autoencoder's attention has names of an earlier diffusers.
    change_weights(
        folder, "text_encoder", lambda t: t.update({"text_model.embeddings.position_ids": torch.arange(24)[None]})
    )
    config = json.loads((folder / "vae" / "config.json").read_text()) | {"mid_block_add_attention": True}
    vae = AutoencoderKL.from_config(config)
    vae.save_pretrained(folder / "vae")
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if ".attentions.0." in key]:
            old = key
            for new, earlier in renamed.items():
                old = old.replace(f".{new}.", f".{earlier}.")
            tensors[old] = tensors.pop(key)

    change_weights(folder, "vae", rename)
    assert "decoder.mid_block.attentions.0.query.weight" in load_file(folder / "vae" / WEIGHTS["vae"])
    read = StableDiffusion.from_pretrained(folder).vae.state_dict()
    assert all(torch.equal(read[key], value) for key, value in vae.state_dict().items())


def test_a_revision_is_refused_for_a_folder_and_passed_to_the_hub_with_an_id(tiny_base, monkeypatch):
    with pytest.raises(ValueError, match=f"revision 'main' was given for the folder {tiny_base}: only a hub id has"):
        StableDiffusion.from_pretrained(tiny_base, revision="main")
    request = {}

    def hub(name: str, **options: object) -> str:
        request.update(options, name=name)
        return str(tiny_base)

    monkeypatch.setattr("hdb.diffusion.folder.snapshot_download", hub)
    assert StableDiffusion.from_pretrained("some/model", revision="1a2b").name == "some/model@1a2b"
    assert (request["name"], request["revision"]) == ("some/model", "1a2b")
    assert "unet/diffusion_pytorch_model.safetensors" in request["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".ckpt")) for pattern in request["allow_patterns"])
    find_pipeline("some/model", variant="fp16")
    weights = [pattern for pattern in request["allow_patterns"] if pattern.endswith(".safetensors")]
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in weights and all(".fp16" in name for name in weights)
    find_pipeline("some/model", weights=False)
    assert not any(pattern.endswith(".safetensors") for pattern in request["allow_patterns"])


def test_a_hub_id_where_going_out_is_forbidden_is_refused_with_that_reason(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="the hub did not give some/model: .*outgoing traffic"):
        find_pipeline("some/model")


def test_a_hub_id_without_network_gives_one_sentence_and_exit_code_2(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "experiments.inspect", "base=some/model"],
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2
    assert len(lines) == 1 and lines[0].startswith("error: no folder some/model, and the hub did not give some/model: ")
