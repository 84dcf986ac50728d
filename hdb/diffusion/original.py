"""Single files in the original layout of Stable Diffusion 1.x, which ComfyUI and A1111 load: reads and writes them.

    model.diffusion_model. UNet      first_stage_model. autoencoder      cond_stage_model.transformer. text encoder

The networks are those of a diffusers folder. Their tensors have other names: blocks are numbered consecutively.

Source: CompVis, stable-diffusion, ldm/modules/diffusionmodules/openaimodel.py and model.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTokenizer

from hdb.diffusion.families.family import Family
from hdb.diffusion.families.sd1 import StableDiffusion1
from hdb.diffusion.families.table import family_of_pipeline
from hdb.diffusion.folder import PipelineParts, check_pipeline, common_dtype, find_pipeline
from hdb.files import content_hash, read_safetensors_header, write_safetensors
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import modelspec_fields, provenance_fields

if TYPE_CHECKING:
    from hdb.diffusion.stable_diffusion import StableDiffusion

_OPEN_CLIP_PREFIX = "cond_stage_model.model."  # of the text encoder of 2.x, whose tensors are also split differently
_SDXL_PREFIX = "conditioner.embedders."
_UNET_NAMES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# For example down_blocks.1.attentions.0.proj_in.weight or mid_block.resnets.1.conv1.bias
_UNET_BLOCK = re.compile(
    r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)"
)
_VAE_ATTENTION_NAMES = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_PATTERNS = {
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


def original_name(part: str, name: str, config: Mapping[str, Any], family: Family | None = None) -> str:
    """The name of a tensor in the original layout.

    Args:
        part: unet, vae or text_encoder.
        name: In the state dict of diffusers' or transformers' model.
        config: Of that model.
        family: Of the base; None is Stable Diffusion 1.x.

    >>> original_name("unet", "up_blocks.1.attentions.2.proj_in.weight", {"layers_per_block": 2})
    'model.diffusion_model.output_blocks.5.1.proj_in.weight'
    """
    if part == "unet":
        name = _unet_name(name, config)
    elif part == "vae":
        name = _vae_name(name, num_levels=len(config["block_out_channels"]))
    else:
        name = "text_model." + name.removeprefix("text_model.")
    return (family or StableDiffusion1()).original_prefixes[part] + name


def write_checkpoint(
    path: str | Path, base: StableDiffusion, *, subject: Subject, title: str, thumbnail: str = ""
) -> Path:
    """Writes a base with a subject merged into it as a single file, atomically.

    Args:
        subject: Whose metadata the file gets.
        title: Shown by user interfaces.
        thumbnail: A small picture as a data URL.

    Raises:
        ValueError: The text encoder is not that of 1.x, and single files hold others in another form.
        OSError: It could not be written.
    """
    _check_has_original_layout(base.family)
    text_width = base.text_encoder.config.hidden_size
    if text_width > 768:
        raise ValueError(
            f"a text encoder {text_width} wide has another form in single files: expected that of 1.x, or a folder"
        )
    tensors = {}
    for part in base.family.original_prefixes:
        model = base.networks[part]
        config = _naming_config(part, model)
        for name, value in model.state_dict().items():
            file_name = original_name(part, name, config, base.family)
            tensors[file_name] = _to_original_shape(file_name, value.detach().cpu()).contiguous()
    metadata = {"format": "pt"}
    metadata.update(provenance_fields(subject))
    metadata.update(
        modelspec_fields(subject, title=title, content_hash=content_hash(tensors), lora=False, thumbnail=thumbnail)
    )
    return write_safetensors(path, tensors, metadata)


def _check_has_original_layout(family: Family) -> None:
    """Raises ValueError if single files of this family cannot be read and written."""
    if not family.original_prefixes:
        raise ValueError(
            f"single files of Stable Diffusion {family.versions} are not supported: expected a folder in diffusers' "
            "layout"
        )


def read_checkpoint(path: Path, config: str | Path) -> PipelineParts:
    """Reads the parts of a single file, in float32. Nothing is unpickled, and no tensor is left uninitialized.

    Args:
        config: A pipeline's folder or hub id, for the configurations and the tokenizer, which a single file lacks.

    Raises:
        ValueError: It is not such a file, or a tensor is missing, unexpected, of another shape or not finite.
    """
    header, metadata = read_safetensors_header(path)
    unet_prefix = StableDiffusion1.original_prefixes["unet"]
    if not any(name.startswith(unet_prefix) for name in header):
        raise ValueError(f"{path} holds no UNet: expected tensors called {unet_prefix}..., as whole models have them")
    if any(name.startswith(_SDXL_PREFIX) for name in header):
        raise ValueError(f"{path} holds the text encoders of an XL: expected a 1.x, or a folder in diffusers' layout")
    if any(name.startswith(_OPEN_CLIP_PREFIX) for name in header):
        raise ValueError(f"{path} holds the text encoder of a 2.x: expected a 1.x, or a folder in diffusers' layout")
    config_folder = find_pipeline(config, weights=False)
    check_pipeline(config_folder, weights=False)
    family = family_of_pipeline(config_folder)
    _check_has_original_layout(family)
    configs = family.read_configs(config_folder)
    stated_type = metadata.get("modelspec.prediction_type", "")
    prediction_type = "v_prediction" if stated_type == "v" else stated_type
    if prediction_type and prediction_type != configs["scheduler"].get("prediction_type", "epsilon"):
        raise ValueError(
            f"{path} says prediction_type {stated_type!r}, {config_folder} another: expected base.config of its base"
        )
    with torch.device("meta"):
        models = {part: family.build_network(part, configs[part]) for part in family.network_classes}
    with safe_open(path, framework="pt") as file:
        for part, model in models.items():
            prefix = family.original_prefixes[part]
            tensors = {name: file.get_tensor(name) for name in header if name.startswith(prefix)}
            _load_weights(model, tensors, part, path, family)
    stored_dtypes = {
        part: common_dtype([{name: entry for name, entry in header.items() if name.startswith(prefix)}])
        for part, prefix in family.original_prefixes.items()
    }
    parts: dict[str, Any] = {**models, "scheduler": DDPMScheduler.from_config(configs["scheduler"])}
    for tokenizer in family.tokenizers.values():
        parts[tokenizer] = CLIPTokenizer.from_pretrained(config_folder / tokenizer)
    return PipelineParts(parts, family, family.pipeline_settings({}), stored_dtypes)


def _naming_config(part: str, model: nn.Module) -> Mapping[str, Any]:
    return {} if part == "text_encoder" else model.config  # names in the text encoder do not depend on its config


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    for prefix, original_prefix in _UNET_NAMES.items():
        if name.startswith(f"{prefix}."):
            return original_prefix + name.removeprefix(prefix)
    stage, level, kind, index, leaf = _UNET_BLOCK.fullmatch(name).groups()
    level = int(level or 0)
    index = int(index)
    is_resnet = kind == "resnets"
    blocks_per_level = config["layers_per_block"] + 1
    if is_resnet:
        layer, _, parameter = leaf.partition(".")
        leaf = f"{_RESNET_NAMES[layer]}.{parameter}"
    if stage == "mid_block":  # resnet, attention, resnet
        return f"middle_block.{2 * index if is_resnet else 1}.{leaf}"
    if kind == "downsamplers":
        return f"input_blocks.{blocks_per_level * (level + 1)}.0.{leaf.replace('conv', 'op', 1)}"
    if kind == "upsamplers":  # after the resnet, and the attention if there is one, of the last block of its level
        has_attention = config["up_block_types"][level].startswith("CrossAttn")
        return f"output_blocks.{blocks_per_level * (level + 1) - 1}.{2 if has_attention else 1}.{leaf}"
    if stage == "down_blocks":
        block = f"input_blocks.{blocks_per_level * level + index + 1}"
    else:
        block = f"output_blocks.{blocks_per_level * level + index}"
    return f"{block}.{0 if is_resnet else 1}.{leaf}"


def _vae_name(name: str, *, num_levels: int) -> str:
    # The original decoder numbers its levels in reverse, from the full resolution down.
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{num_levels - 1 - int(match[1])}", name)
    for pattern, replacement in _VAE_PATTERNS.items():
        name = re.sub(pattern, replacement, name)
    if ".attn_1." in name:
        for layer, original_layer in _VAE_ATTENTION_NAMES.items():
            name = name.replace(f".attn_1.{layer}.", f".attn_1.{original_layer}.")
    return name


def _to_original_shape(original_name: str, value: Tensor) -> Tensor:
    """The projections of the autoencoder's attention are 1x1 convolutions in the original layout."""
    is_projection = re.search(r"first_stage_model\..*\.attn_1\.(q|k|v|proj_out)\.weight$", original_name)
    return value[:, :, None, None] if is_projection and value.ndim == 2 else value


def _load_weights(model: nn.Module, tensors: dict[str, Tensor], part: str, path: Path, family: Family) -> None:
    """Fills a model on the meta device with the file's tensors, after checking each."""
    state_dict = {}
    config = _naming_config(part, model)
    for name, expected in model.state_dict().items():
        file_name = original_name(part, name, config, family)
        value = tensors.pop(file_name, None)
        if value is None:
            raise ValueError(
                f"{path} lacks tensor {file_name}: expected those of the {part} that base.config describes"
            )
        # Some files hold the attention projections as matrices.
        if value.shape not in (_to_original_shape(file_name, expected).shape, expected.shape):
            raise ValueError(
                f"{path}: {file_name} has shape {tuple(value.shape)}, but base.config says {tuple(expected.shape)}"
            )
        num_bad = value.numel() - int(value.isfinite().sum())
        if num_bad:
            raise ValueError(
                f"{path}: {file_name} has {num_bad} values of {value.numel()} that are not finite, expected 0"
            )
        state_dict[name] = value.reshape(expected.shape).float()
    unknown = sorted(name for name in tensors if not name.endswith("position_ids"))
    if unknown:
        raise ValueError(
            f"{path} has an unknown tensor {unknown[0]}, one of {len(unknown)}: expected those of base.config"
        )
    model.load_state_dict(state_dict, assign=True)
    for module in model.modules():  # position ids are not stored
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
