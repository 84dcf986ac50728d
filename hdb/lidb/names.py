"""Canonical names of personalized layers, whatever a library calls its modules today."""

import re
from typing import Any

from torch import nn

_UNET_SLOT = re.compile(r"(^|\.)(to_[qkv]|to_out\.0|ff\.net\.0\.proj)$")
_TEXT_ENCODER_SLOT = re.compile(r"(^|\.)self_attn\.(q|k|v|out)_proj$")
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "out_proj")


def find_target_layers(*, unet: nn.Module | None, text_encoder: nn.Module | None) -> dict[str, nn.Linear]:
    """The linear layers that LiDB personalizes by canonical name, in canonical order, whatever their live paths are.

    Canonical names are the keys of published diffusers LoRA files. transformers 5 dropped `text_model.` from the paths
    of CLIPTextModel, and diffusers registers a UNet's up blocks before its middle: neither may move a number in theta.
    """
    layers = {}
    for name, module in unet.named_modules() if unet is not None else ():
        if isinstance(module, nn.Linear) and _UNET_SLOT.search(name):
            layers[f"unet.{name}"] = module
    for name, module in text_encoder.named_modules() if text_encoder is not None else ():
        if isinstance(module, nn.Linear) and _TEXT_ENCODER_SLOT.search(name):
            layers[f"text_encoder.text_model.{name.removeprefix('text_model.')}"] = module
    return {name: layers[name] for name in sorted(layers, key=_canonical_order)}


def _canonical_order(name: str) -> tuple[Any, ...]:
    # UNet before text encoder; numbers by value; q, k, v, out as everyone says them.
    component, *path = name.split(".")
    return component != "unet", [_part_order(part) for part in path]


def _part_order(part: str) -> tuple[int, int, str]:
    if part.isdecimal():
        return 0, int(part), ""
    return (1, _PROJECTIONS.index(part), "") if part in _PROJECTIONS else (2, 0, part)
