"""Exported LoRAs, as diffusers and PEFT load them."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file

from hdb.files import read_safetensors_header
from hdb.lidb.adapter import LiDB
from hdb.lidb.export import export_lora, to_lora_state_dict
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals


@pytest.fixture
def pipeline(tiny_base) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def person(pipeline) -> Subject:
    """A subject of rank 2 with a scale, strong enough to change the picture and the prompt embeddings."""
    layout = Layout.from_models({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}, a=6, b=3, rank=2)
    theta = layout.initial_theta() + 0.5 * torch.randn(1, layout.size, generator=torch.Generator().manual_seed(1))
    return Subject(theta, layout, {"scale": "0.9", "base": "tiny", "source": "me.png"})


def picture(pipeline: StableDiffusionPipeline) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    out = pipeline("a [V] face", num_inference_steps=4, guidance_scale=3.0, generator=generator, output_type="np")
    return out.images[0]


def prompt_embeds(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    return pipeline.encode_prompt("a [V] face", "cpu", 1, False)[0]


@pytest.mark.parametrize("free", [False, True], ids=["lidb", "free"])
@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_load_lora_weights_gives_the_same_picture_as_bind(pipeline, person, tmp_path, format, free):
    if free:
        relaxed = person.relax(3, free=True)
        noise = torch.randn(relaxed.theta.shape, generator=torch.Generator().manual_seed(2))
        person = Subject(relaxed.theta + 0.05 * noise, relaxed.layout, person.metadata)
    base_picture = picture(pipeline)
    base_embeds = prompt_embeds(pipeline)
    lidb = LiDB({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}, layout=person.layout)
    lidb.bind(person, scale=person.scale)
    bound_picture = picture(pipeline)
    bound_embeds = prompt_embeds(pipeline)
    lidb.detach()
    assert np.abs(picture(pipeline) - base_picture).max() == 0

    pipeline.load_lora_weights(str(export_lora(person, tmp_path / "lora.safetensors", format)))
    assert np.abs(bound_picture - base_picture).max() > 0.05
    assert np.abs(picture(pipeline) - bound_picture).max() < 1e-3
    assert (bound_embeds - base_embeds).abs().max() > 0.05
    torch.testing.assert_close(prompt_embeds(pipeline), bound_embeds, atol=1e-4, rtol=1e-4)


def test_lora_of_peft_equals_bind(models, layout, people):
    latents = torch.randn(2, 4, 8, 8)
    embeds = torch.randn(2, 24, 16)
    unet = models["unet"]
    lidb = LiDB(models, layout=layout)
    lidb.bind(people[:1])
    bound = unet(latents, 5, embeds).sample
    lidb.detach()

    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj"]
    peft_unet = inject_adapter_in_model(LoraConfig(r=1, lora_alpha=1, target_modules=targets), unet)
    exported = {
        key.removeprefix("unet.").replace("lora.down", "lora_A").replace("lora.up", "lora_B"): value
        for key, value in to_lora_state_dict(Residuals(people[:1], layout), "diffusers").items()
        if key.startswith("unet.")
    }
    result = set_peft_model_state_dict(peft_unet, exported)
    assert not result.unexpected_keys and not [key for key in result.missing_keys if "lora" in key]
    torch.testing.assert_close(peft_unet(latents, 5, embeds).sample, bound, atol=2e-5, rtol=1e-4)


def test_keys_are_the_published_ones(people, layout):
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    diffusers = to_lora_state_dict(Residuals(people[:1], layout), "diffusers")
    assert len(diffusers) == 2 * len(layout.slots)
    assert {
        f"unet.{block}.attn1.to_q.lora.down.weight",
        f"unet.{block}.attn2.to_out.0.lora.up.weight",
        f"unet.{block}.ff.net.0.proj.lora.down.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.lora_linear_layer.up.weight",
    } <= set(diffusers)
    kohya = to_lora_state_dict(Residuals(people[:1], layout), "kohya")
    assert len(kohya) == 3 * len(layout.slots)
    assert {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj.alpha",
        "lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_up.weight",
    } <= set(kohya)


def test_all_192_layers_of_stable_diffusion_15_are_found_under_the_keys_of_kohya(sd15, sd15_layout):
    layout = sd15_layout.as_lora  # the same keys, without the time to draw bases
    kohya = to_lora_state_dict(Residuals.initial(layout), "kohya")
    # kohya's scripts, ComfyUI and A1111 name a layer by its path in diffusers, with underscores.
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te"}
    expected = {
        f"{prefixes[slot.name.partition('.')[0]]}_{slot.name.partition('.')[2].replace('.', '_')}"
        for slot in layout.slots
    }
    assert {key.partition(".")[0] for key in kohya} == expected and len(expected) == 192
    assert {key.partition(".")[2] for key in kohya} == {"lora_down.weight", "lora_up.weight", "alpha"}

    # diffusers' converter, then its way to the modules: each layer gets its own factors and no key is left.
    converted, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(kohya), unet_config=sd15["unet"].config)
    assert len(converted) == 2 * 192 and set(alphas.values()) == {1.0}
    shapes = {slot.name: (slot.in_features, slot.out_features) for slot in layout.slots}
    found = {}
    for key, value in converted.items():
        name = key.replace(".processor", "").replace("_lora.", ".lora.").replace("to_out.lora", "to_out.0.lora")
        if name.startswith("text_encoder"):
            for there, here in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "out_proj")):
                name = name.replace(there, here)
        path, _, side = name.partition(".lora.")
        found.setdefault(path, {})[side.partition(".")[0]] = value.shape[1] if "down" in side else value.shape[0]
    assert {path: (sides["down"], sides["up"]) for path, sides in found.items()} == shapes


def test_each_key_of_kohya_names_one_layer_of_the_original_stable_diffusion(sd15_layout):
    # Blocks of the original UNet: 12 of input, the first a convolution; every third one halves; 12 of output. Where
    # ComfyUI and A1111 look a block of diffusers up, by their documentation: down i, j is input 3·i + j + 1, and up
    # i, j is output 3·i + j; attention is the second layer of each.
    original = {
        f"down_blocks_{i}_attentions_{j}": f"input_blocks.{3 * i + j + 1}.1" for i in range(3) for j in range(2)
    }
    original |= {f"up_blocks_{i}_attentions_{j}": f"output_blocks.{3 * i + j}.1" for i in (1, 2, 3) for j in range(3)}
    original |= {"mid_block_attentions_0": "middle_block.1"}
    parts = [f"attn{n}_{name}" for n in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out_0")] + ["ff_net_0_proj"]
    text = [f"layers_{i}_self_attn_{name}_proj" for i in range(12) for name in ("q", "k", "v", "out")]
    expected = {f"lora_unet_{block}_transformer_blocks_0_{part}" for block in original for part in parts}
    expected |= {f"lora_te_text_model_encoder_{layer}" for layer in text}
    state = to_lora_state_dict(Residuals.initial(sd15_layout.as_lora))
    assert {key.partition(".")[0] for key in state} == expected
    assert len(expected) == 192 and len(set(original.values())) == 16
    channels = {"input_blocks.1": 320, "input_blocks.4": 640, "middle_block": 1280, "output_blocks.11": 320}
    for block, place in original.items():
        if wide := next((channels[start] for start in channels if place.startswith(f"{start}.")), None):
            key = f"lora_unet_{block}_transformer_blocks_0"
            assert state[f"{key}_attn2_to_k.lora_down.weight"].shape == (1, 768)  # reads text
            assert state[f"{key}_attn2_to_k.lora_up.weight"].shape == (wide, 1)
            assert state[f"{key}_ff_net_0_proj.lora_up.weight"].shape == (8 * wide, 1)  # two halves, four times as wide


def test_alpha_over_rank_times_up_times_down_is_what_merging_adds(models, person):
    state = to_lora_state_dict(person, scale=0.9)
    before = {name: value.clone() for model in models.values() for name, value in model.named_parameters()}
    LiDB(models, layout=person.layout).merge(person, scale=0.9)
    changed = 0
    for model, prefix in ((models["unet"], "lora_unet_"), (models["text_encoder"], "lora_te_text_model_")):
        for name, merged in model.named_parameters():
            key = prefix + name.removeprefix("text_model.").removesuffix(".weight").replace(".", "_")
            if f"{key}.alpha" in state:
                up, down = state[f"{key}.lora_up.weight"], state[f"{key}.lora_down.weight"]
                added = state[f"{key}.alpha"] / len(down) * (up @ down)
                torch.testing.assert_close(merged, before[name] + added, atol=1e-5, rtol=0)
                changed += 1
    assert changed == len(person.layout.slots) == len(state) // 3


def test_exported_file_has_the_precision_and_the_provenance_of_the_subject(person, tmp_path):
    half = Subject(person.theta.half(), person.layout, person.metadata)
    path = export_lora(half, tmp_path / "lora.safetensors", "kohya")
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    fields = read_safetensors_header(path)[1]
    assert {name: fields[name] for name in ("base", "source")} == {"base": "tiny", "source": "me.png"}


def test_unknown_format_and_several_people_are_refused(people, layout):
    with pytest.raises(ValueError, match="unknown LoRA format 'onnx', expected kohya or diffusers"):
        to_lora_state_dict(Residuals(people[:1], layout), "onnx")
    with pytest.raises(ValueError, match="of one person, given a theta of 3"):
        to_lora_state_dict(Residuals(people, layout))
