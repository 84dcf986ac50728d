"""Single files in the original layout: diffusers reads ours, and we read them back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from hdb.diffusion.families.sd1 import StableDiffusion1
from hdb.diffusion.original import write_checkpoint
from hdb.diffusion.original_names import original_tensors, unet_name, vae_name
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import read_safetensors_header
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout


@pytest.fixture
def subject(tiny_diffusion) -> Subject:
    layout = Layout.from_models(tiny_diffusion.components, a=4, b=3)
    return Subject(layout.initial_theta(), layout, {"base": "tiny", "prediction_type": "epsilon", "resolution": "64"})


@pytest.fixture
def single(tiny_diffusion, subject, tmp_path) -> Path:
    return write_checkpoint(tmp_path / "whole.safetensors", tiny_diffusion, subject=subject, title="Ann")


@pytest.mark.parametrize(
    ("part", "name", "original"),
    [
        ("unet", "conv_in.weight", "input_blocks.0.0.weight"),
        ("unet", "time_embedding.linear_2.bias", "time_embed.2.bias"),
        ("unet", "down_blocks.0.resnets.1.conv1.weight", "input_blocks.2.0.in_layers.2.weight"),
        ("unet", "down_blocks.1.downsamplers.0.conv.bias", "input_blocks.6.0.op.bias"),
        ("unet", "down_blocks.2.attentions.0.proj_in.weight", "input_blocks.7.1.proj_in.weight"),
        ("unet", "down_blocks.3.resnets.1.conv_shortcut.bias", "input_blocks.11.0.skip_connection.bias"),
        ("unet", "mid_block.attentions.0.norm.weight", "middle_block.1.norm.weight"),
        ("unet", "mid_block.resnets.1.norm2.weight", "middle_block.2.out_layers.0.weight"),
        ("unet", "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("unet", "up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("unet", "up_blocks.3.resnets.2.time_emb_proj.bias", "output_blocks.11.0.emb_layers.1.bias"),
        ("unet", "conv_norm_out.bias", "out.0.bias"),
        ("vae", "encoder.down_blocks.1.downsamplers.0.conv.bias", "encoder.down.1.downsample.conv.bias"),
        ("vae", "encoder.mid_block.attentions.0.to_out.0.weight", "encoder.mid.attn_1.proj_out.weight"),
        ("vae", "decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.up.3.block.2.conv1.weight"),
        ("vae", "decoder.up_blocks.2.resnets.0.conv_shortcut.weight", "decoder.up.1.block.0.nin_shortcut.weight"),
        ("vae", "decoder.mid_block.resnets.1.norm1.bias", "decoder.mid.block_2.norm1.bias"),
        ("vae", "quant_conv.weight", "quant_conv.weight"),
    ],
)
def test_tensors_have_the_names_of_the_published_checkpoint(part, name, original):
    # Names from v1-5-pruned.safetensors.
    up_block_types = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    if part == "unet":
        assert unet_name(name, {"layers_per_block": 2, "up_block_types": up_block_types}) == original
    else:
        assert vae_name(name, num_levels=4) == original


def test_original_names_of_the_unet_of_1_5_are_distinct(sd15_unet):
    names = [tensor.name for tensor in original_tensors("unet", sd15_unet, StableDiffusion1())]
    assert len(set(names)) == len(names) == 686
    blocks = {name.removeprefix("model.diffusion_model.").rsplit(".", 2)[0].split(".")[0] for name in names}
    assert blocks == {"time_embed", "input_blocks", "middle_block", "output_blocks", "out"}


@pytest.fixture(scope="session")
def sd15_unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads(Path("configs/sd15/unet.json").read_text()))


def test_diffusers_reads_a_single_file_as_the_base_it_was_written_from(single, tiny_base, tiny_diffusion):
    pipeline = StableDiffusionPipeline.from_single_file(str(single), config=str(tiny_base), local_files_only=True)
    for part in ("unet", "vae", "text_encoder"):
        expected = {
            name.removeprefix("text_model."): value
            for name, value in getattr(tiny_diffusion, part).state_dict().items()
        }
        read = {name.removeprefix("text_model."): value for name, value in getattr(pipeline, part).state_dict().items()}
        assert set(expected) == set(read)
        assert all(torch.equal(expected[name], read[name].float()) for name in expected)


@pytest.mark.parametrize("has_attention", [False, True])
def test_a_single_file_is_read_as_the_base_it_was_written_from(
    has_attention, tiny_base, tiny_diffusion, subject, tmp_path
):
    config_folder = Path(shutil.copytree(tiny_base, tmp_path / "described"))
    if has_attention:  # in the autoencoder, whose matrices are convolutions in the original layout
        config = json.loads((config_folder / "vae/config.json").read_text()) | {"mid_block_add_attention": True}
        (config_folder / "vae/config.json").write_text(json.dumps(config))
        tiny_diffusion.vae = AutoencoderKL.from_config(config)
    path = write_checkpoint(tmp_path / "whole.safetensors", tiny_diffusion, subject=subject, title="Ann")
    read = StableDiffusion.from_pretrained(path, config=config_folder)
    assert read.name == "whole"
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(tiny_diffusion, part).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in getattr(read, part).state_dict().items())
    assert torch.equal(read.encode_prompts(["a [V] face"]).embeds, tiny_diffusion.encode_prompts(["a [V] face"]).embeds)
    shapes = {
        name: entry["shape"] for name, entry in read_safetensors_header(path)[0].items() if ".attn_1.q.weight" in name
    }
    assert bool(shapes) is has_attention and all(shape[2:] == [1, 1] for shape in shapes.values())


def test_metadata_of_a_single_file_is_that_of_a_whole_model(single):
    fields = read_safetensors_header(single)[1]
    assert fields["modelspec.architecture"] == "stable-diffusion-v1" and fields["modelspec.implementation"] == "sgm"
    assert fields["modelspec.title"] == "Ann" and "ss_network_module" not in fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("model.diffusion_model.out.0.bias"),
            "lacks tensor model.diffusion_model.out.0.bias: expected",
        ),
        (
            lambda tensors: tensors.update({"first_stage_model.x": torch.zeros(1)}),
            "has an unknown tensor first_stage_model.x, one of",
        ),
        (
            lambda tensors: tensors.update({"model.diffusion_model.out.0.bias": torch.zeros(3)}),
            r"out.0.bias has shape \(3,\), but base.config says \(8,\)",
        ),
        (
            lambda tensors: tensors["model.diffusion_model.out.0.bias"].fill_(float("nan")),
            "out.0.bias has 8 values of 8 that are not",
        ),
        (
            lambda tensors: tensors.update({"cond_stage_model.model.ln_final.bias": torch.zeros(1)}),
            "text encoder of a 2.x: expected",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("model.")],
            "holds no UNet: expected tensors",
        ),
    ],
)
def test_a_damaged_single_file_is_refused_with_the_tensors_name(single, tiny_base, change, message):
    tensors = load_file(single)
    change(tensors)
    save_file(tensors, single)
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(single, config=tiny_base)


def test_a_config_folder_without_a_tokenizer_is_refused(single, tiny_base, tmp_path):
    config_folder = Path(shutil.copytree(tiny_base, tmp_path / "described"))
    shutil.rmtree(config_folder / "tokenizer")
    with pytest.raises(
        ValueError, match="described lacks tokenizer: expected folders unet, vae, text_encoder, tokenizer"
    ):
        StableDiffusion.from_pretrained(single, config=config_folder)


def test_a_velocity_model_is_refused_with_the_config_of_a_noise_model(tiny_base, tiny_diffusion, subject, tmp_path):
    subject.metadata["prediction_type"] = "v_prediction"
    path = write_checkpoint(tmp_path / "v.safetensors", tiny_diffusion, subject=subject, title="V")
    with pytest.raises(ValueError, match="says prediction_type 'v', .* another: expected base.config of its base"):
        StableDiffusion.from_pretrained(path, config=tiny_base)
