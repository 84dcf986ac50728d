"""Finds the layers that LiDB personalizes and gives them names that do not depend on library versions."""

import re
from typing import Any

from torch import nn

_UNET_TARGET = re.compile(r"(^|\.)(to_[qkv]|to_out\.0|ff\.net\.0\.proj)$")
_TEXT_ENCODER_TARGET = re.compile(r"(^|\.)self_attn\.(q|k|v|out)_proj$")
_PROJECTION_ORDER = ("to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "out_proj")


def find_target_layers(*, unet: nn.Module | None, text_encoder: nn.Module | None) -> dict[str, nn.Linear]:
    """The linear layers that LiDB personalizes, by canonical name and in canonical order.

    Canonical names are the keys of published diffusers LoRA files, not today's module paths: transformers 5 dropped
    `text_model.` from the paths of CLIPTextModel. The order is canonical as well, because diffusers registers a UNet's
    up blocks before its middle block. Neither may change the meaning of a stored theta.
    """
    layers = {}
    if unet is not None:
        for path, module in unet.named_modules():
            if isinstance(module, nn.Linear) and _UNET_TARGET.search(path):
                layers[f"unet.{path}"] = module
    if text_encoder is not None:
        for path, module in text_encoder.named_modules():
            if isinstance(module, nn.Linear) and _TEXT_ENCODER_TARGET.search(path):
                layers[f"text_encoder.text_model.{path.removeprefix('text_model.')}"] = module
    return {name: layers[name] for name in sorted(layers, key=_canonical_order)}


def _canonical_order(name: str) -> tuple[Any, ...]:
    """UNet before text encoder, numbers by value, and projections in the order q, k, v, out."""
    component, *path = name.split(".")
    return component != "unet", [_part_order(part) for part in path]


def _part_order(part: str) -> tuple[int, int, str]:
    if part.isdecimal():
        return 0, int(part), ""
    if part in _PROJECTION_ORDER:
        return 1, _PROJECTION_ORDER.index(part), ""
    return 2, 0, part
