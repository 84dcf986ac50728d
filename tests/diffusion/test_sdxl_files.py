"""Files of Stable Diffusion XL for other programs: LoRA keys, and single files in the original layout.

What the programs do with a LoRA's keys is stated here as facts, apart from the code that writes them:

| program | denoiser | first text encoder | second text encoder |
|---|---|---|---|
| ComfyUI | names of a single file's tensors | names of transformers | names of transformers |
| sd-scripts | modules named as those of a single file | names of transformers | names of transformers |
| A1111, Forge | modules named as those of a single file | the same | OpenCLIP's modules, thirds of one tensor |
"""

import re
from collections.abc import Callable, Iterable

import pytest
import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from hdb.diffusion.merged import write_merged
from hdb.diffusion.original import write_checkpoint
from hdb.diffusion.original_names import original_tensors
from hdb.diffusion.personalized import build_layout
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import read_safetensors_header
from hdb.lidb.export import export_lora, to_lora_state_dict
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.transformer."
OPEN_CLIP = "conditioner.embedders.1.model."
# (tensor of a single file, which third of its rows or None for all of them), by the name of a layer in a LoRA
Places = dict[str, tuple[str, int | None]]


def comfyui(names: Iterable[str]) -> Places:
    """ComfyUI's way: from the tensors of the models that it has built to the keys that it looks for."""
    places: Places = {}
    for name in names:
        if name.startswith(UNET) and name.endswith(".weight"):
            path = name.removeprefix(UNET).removesuffix(".weight")
            places["lora_unet_" + path.replace(".", "_")] = (name, None)
        layer = re.fullmatch(re.escape(CLIP) + r"text_model\.encoder\.layers\.(\d+)\.self_attn\.(\w+)\.weight", name)
        if layer:
            places[f"lora_te1_text_model_encoder_layers_{layer[1]}_self_attn_{layer[2]}"] = (name, None)
        # It names OpenCLIP's layers as transformers does when it loads a file, and cuts the fused tensor in three.
        layer = re.fullmatch(
            re.escape(OPEN_CLIP) + r"transformer\.resblocks\.(\d+)\.attn\.(in|out)_proj[._]weight", name
        )
        if layer and layer[2] == "out":
            places[f"lora_te2_text_model_encoder_layers_{layer[1]}_self_attn_out_proj"] = (name, None)
        elif layer:
            for third, projection in enumerate("qkv"):
                key = f"lora_te2_text_model_encoder_layers_{layer[1]}_self_attn_{projection}_proj"
                places[key] = (name, third)
    return places


def sd_scripts(names: Iterable[str]) -> Places:
    """sd-scripts' way: a LoRA module for each linear layer of its UNet's transformers, and of the text encoders."""
    names = set(names)
    places: Places = {}
    for name in names:
        path = name.removeprefix(UNET).removesuffix(".weight")
        if name.startswith(UNET) and re.search(r"\.transformer_blocks\.\d+\.(attn[12]|ff)\.", path):
            places["lora_unet_" + path.replace(".", "_")] = (name, None)
    encoders = (("lora_te1", CLIP + "text_model.encoder.layers"), ("lora_te2", OPEN_CLIP + "transformer.resblocks"))
    for prefix, blocks in encoders:
        numbers = {int(match[1]) for name in names if (match := re.match(re.escape(blocks) + r"\.(\d+)\.", name))}
        for number in numbers:
            for third, projection in enumerate(("q_proj", "k_proj", "v_proj", "out_proj")):
                key = f"{prefix}_text_model_encoder_layers_{number}_self_attn_{projection}"
                if prefix == "lora_te1":
                    places[key] = (f"{blocks}.{number}.self_attn.{projection}.weight", None)
                elif projection == "out_proj":
                    places[key] = (f"{blocks}.{number}.attn.out_proj.weight", None)
                else:
                    places[key] = (f"{blocks}.{number}.attn.in_proj_weight", third)
    return places


def a1111(names: Iterable[str], keys: Iterable[str]) -> Places:
    """A1111's way: from a LoRA's keys to the names that it gave to the modules of its model, dots as underscores."""
    modules = {}
    for name in names:
        path = re.sub(r"[._](weight|in_proj_weight)$", "", name)
        for prefix, short in ((UNET, "diffusion_model_"), (CLIP, "0_transformer_"), (OPEN_CLIP, "1_model_")):
            if name.startswith(prefix) and "bias" not in name:
                modules[short + path.removeprefix(prefix).replace(".", "_")] = name
    places: Places = {}
    for key in keys:
        layer = re.fullmatch(r"lora_te2_text_model_encoder_layers_(\d+)_self_attn_(\w+)", key)
        if layer and layer[2] != "out_proj":  # of torch's MultiheadAttention, which has one tensor for the three
            attention = modules[f"1_model_transformer_resblocks_{layer[1]}_attn"]
            places[key] = (attention, "qkv".index(layer[2][0]))
        elif layer:
            places[key] = (modules[f"1_model_transformer_resblocks_{layer[1]}_attn_out_proj"], None)
        elif key.startswith("lora_te1_"):
            places[key] = (modules["0_transformer_" + key.removeprefix("lora_te1_")], None)
        else:
            places[key] = (modules["diffusion_model_" + key.removeprefix("lora_unet_")], None)
    return places


PROGRAMS: dict[str, Callable[[Iterable[str], Iterable[str]], Places]] = {
    "ComfyUI": lambda names, keys: comfyui(names),
    "sd-scripts": lambda names, keys: sd_scripts(names),
    "A1111": a1111,
}


@pytest.fixture(scope="module")
def published_names(published) -> set[str]:
    """All tensors of a single file of the published base."""
    parts = published.networks.items()
    return {tensor.name for part, network in parts for tensor in original_tensors(part, network, published.family)}


@pytest.fixture(scope="module")
def published_lora(published) -> dict[str, torch.Tensor]:
    """An exported LoRA of rank 1 for it, in kohya's format."""
    layout = build_layout(published, LiDBOptions()).as_lora  # the same keys, without the time to draw bases
    return to_lora_state_dict(Residuals.initial(layout), "kohya")


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_find_806_of_806_layers_of_the_published_base(program, published_names, published_lora):
    keys = {name.partition(".")[0] for name in published_lora}
    places = PROGRAMS[program](published_names, keys)
    found = [places[key] for key in keys if key in places and places[key][0] in published_names]
    assert len(found) == len(set(found)) == len(keys) == 806


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_programs_add_to_a_single_file_is_what_merging_adds(program, diffusion, subject, tmp_path):
    before = load_file(write_checkpoint(tmp_path / "before.safetensors", diffusion, subject=subject, title="Ann"))
    lora = load_file(export_lora(subject, tmp_path / "lora.safetensors"))
    write_merged(diffusion, subject, tmp_path / "after.safetensors", "checkpoint", name="Ann", title="Ann")
    after = load_file(tmp_path / "after.safetensors")
    keys = {name.partition(".")[0] for name in lora}
    expected = {name: value.double() for name, value in before.items()}
    for key, (name, third) in PROGRAMS[program](before, keys).items():
        if key not in keys:
            continue
        keys.remove(key)
        down = lora[f"{key}.lora_down.weight"].double()
        residual = lora[f"{key}.alpha"].double() / len(down) * lora[f"{key}.lora_up.weight"].double() @ down
        rows = expected[name] if third is None else expected[name].chunk(3)[third]
        rows += residual.reshape(rows.shape)
    assert not keys
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) > 50
    for name, value in expected.items():
        assert_close(after[name].double(), value, atol=1e-5, rtol=0)


def test_kohya_keys_of_the_published_base_name_layers_of_the_original_layout(published, published_lora):
    # Blocks with attention of the original UNet, and the depth of each, by Stability AI's sd_xl_base.yaml:
    # channel_mult 1, 2, 4, two residual blocks per level, attention at the second and third, depth 1, 2, 10.
    depths = {f"input_blocks_{number}_1": 2 if number < 6 else 10 for number in (4, 5, 7, 8)}
    depths |= {f"output_blocks_{number}_1": 10 if number < 3 else 2 for number in range(6)}
    depths |= {"middle_block_1": 10}
    layers = [f"attn{n}_to_{name}" for n in (1, 2) for name in ("q", "k", "v", "out_0")] + ["ff_net_0_proj"]
    expected = {
        f"lora_unet_{block}_transformer_blocks_{number}_{layer}"
        for block, depth in depths.items()
        for number in range(depth)
        for layer in layers
    }
    for prefix, depth in (("lora_te1", 12), ("lora_te2", 32)):
        expected |= {
            f"{prefix}_text_model_encoder_layers_{number}_self_attn_{name}_proj"
            for number in range(depth)
            for name in ("q", "k", "v", "out")
        }
    assert {key.partition(".")[0] for key in published_lora} == expected and len(expected) == 806

    # diffusers' converter: each layer gets its own factors, and no key is left.
    converted, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        dict(published_lora), unet_config=published.unet.config
    )
    assert len(converted) == 2 * 806 and set(alphas.values()) == {1.0}
    found = {}
    for key, value in converted.items():
        name = key.replace(".processor", "").replace("_lora.", ".lora.").replace("to_out.lora", "to_out.0.lora")
        if name.startswith("text_encoder"):
            for theirs, ours in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "out_proj")):
                name = name.replace(theirs, ours)
        path, _, side = name.partition(".lora.")
        found.setdefault(path, {})[side.partition(".")[0]] = value.shape[1] if "down" in side else value.shape[0]
    slots = build_layout(published, LiDBOptions()).slots
    shapes = {slot.name: (slot.in_features, slot.out_features) for slot in slots}
    assert {path: (sides["down"], sides["up"]) for path, sides in found.items()} == shapes


def test_a_single_file_holds_what_diffusers_converters_make_of_it_to_the_bit(diffusion, subject, tmp_path):
    tensors = load_file(write_checkpoint(tmp_path / "whole.safetensors", diffusion, subject=subject, title="Ann"))
    encoder_2 = diffusion.text_encoder_2
    # These take tensors out of the mapping that they are given.
    converted = {
        "unet": convert_ldm_unet_checkpoint(dict(tensors), diffusion.unet.config),
        "vae": convert_ldm_vae_checkpoint(dict(tensors), diffusion.vae.config),
        "text_encoder": convert_ldm_clip_checkpoint(dict(tensors)),
        "text_encoder_2": convert_open_clip_checkpoint(encoder_2, dict(tensors), "conditioner.embedders.1.model."),
    }
    for part, theirs in converted.items():
        theirs = {name.removeprefix("text_model."): value for name, value in theirs.items()}
        ours = diffusion.networks[part].state_dict()
        ours = {name.removeprefix("text_model."): value for name, value in ours.items()}
        assert theirs.keys() == ours.keys()
        assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_a_single_file_is_read_as_the_base_it_was_written_from(diffusion, subject, tiny_sdxl, tmp_path):
    path = write_checkpoint(tmp_path / "whole.safetensors", diffusion, subject=subject, title="Ann")
    fields = read_safetensors_header(path)[1]
    assert fields["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    assert fields["modelspec.implementation"] == "sgm"
    # Published files have the temperature that the second text encoder was trained with.
    tensors = load_file(path) | {"conditioner.embedders.1.model.logit_scale": torch.tensor(4.6)}
    save_file(tensors, path)
    read = StableDiffusion.from_pretrained(path, config=tiny_sdxl)
    assert read.digest == diffusion.digest
    for part, network in diffusion.networks.items():
        state_dict = read.networks[part].state_dict()
        assert all(torch.equal(value, state_dict[name]) for name, value in network.state_dict().items())
    assert len({value.data_ptr() for value in read.text_encoder_2.state_dict().values()}) == len(
        read.text_encoder_2.state_dict()
    )


def test_a_single_file_without_a_description_says_how_to_give_one(diffusion, subject, tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "whole.safetensors", diffusion, subject=subject, title="Ann")

    def offline(name: str, **options: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr("hdb.diffusion.folder.snapshot_download", offline)
    with pytest.raises(
        ValueError, match="which are taken from stabilityai/.* unless base.config names a folder: .*offl"
    ):
        StableDiffusion.from_pretrained(path)


def test_a_single_file_of_another_family_is_refused(diffusion, subject, tiny_sdxl, tiny_base, tmp_path):
    path = write_checkpoint(tmp_path / "whole.safetensors", diffusion, subject=subject, title="Ann")
    message = "text encoders of Stable Diffusion XL base, and base.config describes 1.x or 2.x: expected base.config"
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(path, config=tiny_base)
    refiner = {name: value for name, value in load_file(path).items() if "embedders.0" not in name}
    save_file(refiner, path)
    with pytest.raises(ValueError, match="text encoders of no base that is supported: expected tensors called cond_"):
        StableDiffusion.from_pretrained(path, config=tiny_sdxl)


def test_a_single_file_of_the_published_base_has_its_number_of_tensors(published, published_names):
    tensors = {part: original_tensors(part, network, published.family) for part, network in published.networks.items()}
    # Of sd_xl_base_1.0.safetensors: 2515, with the position ids and the temperature that we do not write.
    assert {part: len(entries) for part, entries in tensors.items()} == {
        "unet": 1680,
        "vae": 248,
        "text_encoder": 196,
        "text_encoder_2": 389,
    }
    assert len(published_names) == 2513
    assert {
        "model.diffusion_model.label_emb.0.2.weight",
        "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight",
        "model.diffusion_model.output_blocks.2.2.conv.bias",
        "model.diffusion_model.output_blocks.8.0.skip_connection.weight",
        "first_stage_model.decoder.mid.attn_1.proj_out.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.11.self_attn.k_proj.bias",
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias",
        "conditioner.embedders.1.model.text_projection",
    } <= published_names
