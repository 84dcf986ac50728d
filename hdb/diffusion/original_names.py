"""Names of tensors in single files of the original layout, and what each consists of.

    part of diffusers' pipeline     in the file
    UNet                            the same tensors, blocks numbered consecutively
    autoencoder                     the same, with levels of the decoder in reverse
    CLIP of transformers            the same
    OpenCLIP                        query, key and value in one tensor; the projection transposed

Source: CompVis, stable-diffusion, ldm/modules/diffusionmodules/openaimodel.py and model.py; OpenCLIP,
src/open_clip/transformer.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hdb.diffusion.families.family import Family

_UNET_NAMES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
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
_VAE_PROJECTION = re.compile(r"\.attn_1\.(q|k|v|proj_out)\.weight$")
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


_OPEN_CLIP_NAMES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_FUSED = ("q_proj", "k_proj", "v_proj")  # in this order


@dataclass(frozen=True)
class OriginalTensor:
    """A tensor of a single file.

    Args:
        name: In the file.
        sources: Its tensors in the state dict of diffusers' or transformers' model, which lie one below the other.
        is_transposed: Whether the file has its columns as rows.
        is_convolution: Whether the file has a matrix as a 1x1 convolution. Some files hold it as a matrix.
    """

    name: str
    sources: tuple[str, ...]
    is_transposed: bool = False
    is_convolution: bool = False

    def join(self, state_dict: Mapping[str, Tensor]) -> Tensor:
        """The tensor as the file has it."""
        value = torch.cat([state_dict[source] for source in self.sources])
        if self.is_transposed:
            value = value.T
        return value[:, :, None, None] if self.is_convolution and value.ndim == 2 else value

    def split(self, value: Tensor, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the state dict, of the file's. They share no memory with each other.

        Args:
            state_dict: Of tensors of the same shapes.
        """
        if len(self.sources) == 1:
            (source,) = self.sources
            value = value.T if self.is_transposed else value
            return {source: value.reshape(state_dict[source].shape).contiguous()}
        rows = value.split([len(state_dict[source]) for source in self.sources])
        return {source: part.clone() for source, part in zip(self.sources, rows, strict=True)}


def original_tensors(part: str, model: nn.Module, family: Family) -> list[OriginalTensor]:
    """The tensors of a part in a single file.

    Args:
        part: Its name in diffusers' pipelines.
        model: With its state dict and its configuration.
        family: Says the prefix, and whether a text encoder is OpenCLIP's.
    """
    prefix = family.original_prefixes[part]
    names = list(model.state_dict())
    if part == "unet":
        return [OriginalTensor(prefix + unet_name(name, model.config), (name,)) for name in names]
    if part == "vae":
        num_levels = len(model.config["block_out_channels"])
        originals = {name: vae_name(name, num_levels=num_levels) for name in names}
        return [
            OriginalTensor(prefix + original, (name,), is_convolution=bool(_VAE_PROJECTION.search(original)))
            for name, original in originals.items()
        ]
    if part in family.open_clip_encoders:
        return _open_clip_tensors(names, prefix)
    return [OriginalTensor(f"{prefix}text_model.{name.removeprefix('text_model.')}", (name,)) for name in names]


def _open_clip_tensors(names: list[str], prefix: str) -> list[OriginalTensor]:
    sources: dict[str, list[str]] = {}
    for name in names:
        path = name.removeprefix("text_model.")
        sources.setdefault(_OPEN_CLIP_NAMES.get(path) or _open_clip_layer(path), []).append(name)
    return [
        OriginalTensor(prefix + original, tuple(sorted(group, key=_fused_order)), original == "text_projection")
        for original, group in sources.items()
    ]


def _fused_order(name: str) -> int:
    """The place of query, key or value in the tensor that holds all three."""
    layer = name.split(".")[-2]
    return _FUSED.index(layer) if layer in _FUSED else 0


def _open_clip_layer(path: str) -> str:
    """The name of a tensor within a layer; the same for query, key and value.

    >>> _open_clip_layer("encoder.layers.3.self_attn.k_proj.bias")
    'transformer.resblocks.3.attn.in_proj_bias'
    """
    number, leaf = path.removeprefix("encoder.layers.").split(".", 1)
    layer, _, parameter = leaf.rpartition(".")
    if layer.removeprefix("self_attn.") in _FUSED:
        return f"transformer.resblocks.{number}.attn.in_proj_{parameter}"
    return f"transformer.resblocks.{number}.{_OPEN_CLIP_LAYERS[layer]}.{parameter}"


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The name of a UNet's tensor, without the prefix.

    >>> unet_name("up_blocks.1.attentions.2.proj_in.weight", {"layers_per_block": 2})
    'output_blocks.5.1.proj_in.weight'
    """
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


def vae_name(name: str, *, num_levels: int) -> str:
    """The name of an autoencoder's tensor, without the prefix."""
    # The original decoder numbers its levels in reverse, from the full resolution down.
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{num_levels - 1 - int(match[1])}", name)
    for pattern, replacement in _VAE_PATTERNS.items():
        name = re.sub(pattern, replacement, name)
    if ".attn_1." in name:
        for layer, original_layer in _VAE_ATTENTION_NAMES.items():
            name = name.replace(f".attn_1.{layer}.", f".attn_1.{original_layer}.")
    return name
