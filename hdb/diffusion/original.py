"""Single files in the original layout of Stable Diffusion 1.x, which ComfyUI and A1111 load: read and written.

    model.diffusion_model. UNet      first_stage_model. autoencoder      cond_stage_model.transformer. text encoder

The networks are the same as in a folder and their tensors have other names: blocks are counted through.

Source: CompVis, stable-diffusion, ldm/modules/diffusionmodules/openaimodel.py and model.py
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hdb.diffusion.family import read_configs
from hdb.diffusion.folder import check_pipeline, find_pipeline
from hdb.files import content_hash, read_safetensors_header, write_safetensors
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import modelspec_fields, provenance_fields

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
_OPEN_CLIP = "cond_stage_model.model."  # the text encoder of 2.x, whose tensors are also cut otherwise
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)")
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE = {
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"down_blocks\.(\d+)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.(\d+)\.resnets": r"up.\1.block",
    r"up_blocks\.(\d+)\.upsamplers\.0": r"up.\1.upsample",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
}


def original_name(part: str, name: str, config: Mapping[str, Any]) -> str:
    """What a tensor of a part is called in the original layout.

    >>> original_name("unet", "up_blocks.1.attentions.2.proj_in.weight", {"layers_per_block": 2})
    'model.diffusion_model.output_blocks.5.1.proj_in.weight'
    """
    if part == "unet":
        name = _unet_name(name, config)
    elif part == "vae":
        name = _vae_name(name, num_levels=len(config["block_out_channels"]))
    else:
        name = "text_model." + name.removeprefix("text_model.")
    return PREFIXES[part] + name


def write_checkpoint(path: str | Path, base: nn.Module, *, subject: Subject, title: str, thumbnail: str = "") -> Path:
    """Writes a base with a subject merged into it as a single file, atomically.

    Args:
        base: With `unet`, `vae` and `text_encoder`.
        subject: Whose metadata the file gets.
        title: Shown by user interfaces.
        thumbnail: A small picture as a data URL.

    Raises:
        ValueError: The text encoder is that of 2.x, which single files hold in another form.
        OSError: It could not be written.
    """
    if (width := base.text_encoder.config.hidden_size) > 768:
        raise ValueError(
            f"a text encoder {width} wide has another form in single files: expected that of 1.x, or a folder"
        )
    tensors = {}
    for part in PREFIXES:
        network = getattr(base, part)
        config = {} if part == "text_encoder" else network.config
        for name, value in network.state_dict().items():
            original = original_name(part, name, config)
            tensors[original] = _as_convolution(original, value.detach().cpu()).contiguous()
    metadata = {"format": "pt"}
    metadata.update(provenance_fields(subject))
    metadata.update(
        modelspec_fields(subject, title=title, content_hash=content_hash(tensors), lora=False, thumbnail=thumbnail)
    )
    return write_safetensors(path, tensors, metadata)


def read_checkpoint(path: Path, config: str | Path) -> dict[str, Any]:
    """The parts of a single file, in float32; nothing is unpickled and no tensor made up.

    Args:
        config: A pipeline's folder or hub id, whose descriptions and tokenizer count: a single file has neither.

    Raises:
        ValueError: It is no such file, or a tensor is missing, superfluous, of another shape or not finite.
    """
    header, metadata = read_safetensors_header(path)
    if not any(name.startswith(PREFIXES["unet"]) for name in header):
        raise ValueError(
            f"{path} holds no UNet: expected tensors called {PREFIXES['unet']}..., as whole models have them"
        )
    if any(name.startswith(_OPEN_CLIP) for name in header):
        raise ValueError(f"{path} holds the text encoder of a 2.x: expected a 1.x, or a folder in diffusers' layout")
    configs_in = find_pipeline(config, weights=False)
    check_pipeline(configs_in, weights=False)
    configs = read_configs(configs_in)
    answers = {"v": "v_prediction"}.get(said := metadata.get("modelspec.prediction_type", ""), said)
    if said and answers != configs["scheduler"].get("prediction_type", "epsilon"):
        raise ValueError(
            f"{path} says prediction_type {said!r}, {configs_in} another: expected base.config of its base"
        )
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])),
        }
    with safe_open(path, framework="pt") as file:
        for part, model in parts.items():
            _fill(
                model, {name: file.get_tensor(name) for name in header if name.startswith(PREFIXES[part])}, part, path
            )
    tokenizer = CLIPTokenizer.from_pretrained(configs_in / "tokenizer")
    return {**parts, "tokenizer": tokenizer, "scheduler": DDPMScheduler.from_config(configs["scheduler"])}


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    for start, original in _UNET.items():
        if name.startswith(f"{start}."):
            return original + name.removeprefix(start)
    where, level, kind, number, rest = _BLOCK.fullmatch(name).groups()
    per_level, i, j, is_resnet = config["layers_per_block"] + 1, int(level or 0), int(number), kind == "resnets"
    if is_resnet:
        inner, _, leaf = rest.partition(".")
        rest = f"{_RESNET[inner]}.{leaf}"
    if where == "mid_block":
        return f"middle_block.{2 * j if is_resnet else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{per_level * (i + 1)}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":  # behind what the last layer of its level has
        attends = config["up_block_types"][i].startswith("CrossAttn")
        return f"output_blocks.{per_level * (i + 1) - 1}.{2 if attends else 1}.{rest}"
    place = f"input_blocks.{per_level * i + j + 1}" if where == "down_blocks" else f"output_blocks.{per_level * i + j}"
    return f"{place}.{int(not is_resnet)}.{rest}"


def _vae_name(name: str, *, num_levels: int) -> str:
    # The decoder counts its levels from the picture down.
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{num_levels - 1 - int(found[1])}", name)
    for pattern, original in _VAE.items():
        name = re.sub(pattern, original, name)
    if ".attn_1." in name:
        for inner, original in _ATTENTION.items():
            name = name.replace(f".attn_1.{inner}.", f".attn_1.{original}.")
    return name


def _as_convolution(name: str, value: Tensor) -> Tensor:
    """The autoencoder's attention has matrices as convolutions of one pixel there."""
    is_matrix = re.search(r"first_stage_model\..*\.attn_1\.(q|k|v|proj_out)\.weight$", name) and value.ndim == 2
    return value[:, :, None, None] if is_matrix else value


def _fill(model: nn.Module, tensors: dict[str, Tensor], part: str, path: Path) -> None:
    state, config = {}, {} if part == "text_encoder" else model.config
    for name, expected in model.state_dict().items():
        original = original_name(part, name, config)
        if (value := tensors.pop(original, None)) is None:
            raise ValueError(f"{path} lacks tensor {original}: expected those of the {part} that base.config describes")
        if value.shape != _as_convolution(original, expected).shape and value.shape != expected.shape:
            raise ValueError(
                f"{path}: {original} has shape {tuple(value.shape)}, but base.config says {tuple(expected.shape)}"
            )
        if bad := value.numel() - int(value.isfinite().sum()):
            raise ValueError(f"{path}: {original} has {bad} values of {value.numel()} that are not finite, expected 0")
        state[name] = value.reshape(expected.shape).float()
    if odd := sorted(name for name in tensors if not name.endswith("position_ids")):
        raise ValueError(f"{path} has an unknown tensor {odd[0]}, one of {len(odd)}: expected those of base.config")
    model.load_state_dict(state, assign=True)
    for module in model.modules():  # positions are counted, not stored
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
