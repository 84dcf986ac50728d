"""Names of the layers that LiDB personalizes: canonical ones, and those of other programs' LoRA files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

# Attention and GEGLU projections of diffusers' transformer blocks, and attention projections of transformers' CLIP.
_DENOISER_TARGET = re.compile(r"(^|\.)(to_[qkv]|to_out\.0|ff\.net\.0\.proj)$")
_TEXT_ENCODER_TARGET = re.compile(r"(^|\.)self_attn\.(q|k|v|out)_proj$")
_PROJECTION_ORDER = ("to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "out_proj")


def find_target_layers(components: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    """The linear layers that LiDB personalizes, by canonical name and in canonical order.

    Canonical names are the keys of published diffusers LoRA files, not today's module paths: transformers 5 dropped
    `text_model.` from the paths of CLIPTextModel. The order is canonical as well, because diffusers registers a UNet's
    up blocks before its middle block. Neither may change the meaning of a stored theta.

    Args:
        components: The networks that are personalized, by name and in the order of theta.
    """
    layers = {}
    for component, model in components.items():
        found = {}
        for path, module in model.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if _DENOISER_TARGET.search(path):
                found[path] = module
            elif _TEXT_ENCODER_TARGET.search(path):
                found[f"text_model.{path.removeprefix('text_model.')}"] = module
        for path in sorted(found, key=_canonical_order):
            layers[f"{component}.{path}"] = found[path]
    return layers


def _canonical_order(path: str) -> list[Any]:
    """Numbers by value, and projections in the order q, k, v, out."""
    return [_part_order(part) for part in path.split(".")]


def _part_order(part: str) -> tuple[int, int, str]:
    if part.isdecimal():
        return 0, int(part), ""
    if part in _PROJECTION_ORDER:
        return 1, _PROJECTION_ORDER.index(part), ""
    return 2, 0, part


def component_of(slot_name: str) -> str:
    """The component that a slot belongs to.

    >>> component_of("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj")
    'text_encoder_2'
    """
    return slot_name.partition(".")[0]


def is_text_encoder(component: str) -> bool:
    """Whether a component reads prompts."""
    return component.startswith("text_encoder")


@dataclass(frozen=True)
class LoraNames:
    """How other programs name a family of bases and the layers of its LoRA files.

    Args:
        kohya_prefixes: Of the layers of each component, in kohya's format. Its keys are the family's components.
        original_blocks: Whether kohya's format numbers the UNet's blocks as the original layout does.
        architecture: ModelSpec's name of the base.
        base_version: `ss_base_model_version` of kohya's scripts.
        a1111_version: "sd version" of A1111.
    """

    kohya_prefixes: Mapping[str, str]
    original_blocks: bool
    architecture: str
    base_version: str
    a1111_version: str


SD1 = LoraNames(
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    original_blocks=False,
    architecture="stable-diffusion-v1",
    base_version="sd_v1",
    a1111_version="SD1",
)
# ModelSpec has two names for 2.x, see `hdb.lidb.modelspec`.
SD2 = LoraNames(
    kohya_prefixes=SD1.kohya_prefixes,
    original_blocks=False,
    architecture="stable-diffusion-v2",
    base_version="sd_v2",
    a1111_version="SD2",
)
SDXL = LoraNames(
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    original_blocks=True,
    architecture="stable-diffusion-xl-v1-base",
    base_version="sdxl_base_v1-0",
    a1111_version="SDXL",
)


def diffusers_keys(slot_name: str) -> tuple[str, str]:
    """The keys of down and up of a slot in a LoRA file in diffusers' format."""
    infix = "lora_linear_layer" if is_text_encoder(component_of(slot_name)) else "lora"
    return f"{slot_name}.{infix}.down.weight", f"{slot_name}.{infix}.up.weight"


def kohya_layer_names(slot_names: Iterable[str], names: LoraNames) -> dict[str, str]:
    """The name of the layer of each slot in a LoRA file in kohya's format.

    >>> slot = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    >>> kohya_layer_names([slot], SD1)[slot]
    'lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q'
    """
    slot_names = list(slot_names)
    layers_per_block = _layers_per_block(slot_names) if names.original_blocks else 0
    layer_names = {}
    for slot_name in slot_names:
        component, _, path = slot_name.partition(".")
        if names.original_blocks and not is_text_encoder(component):
            path = _original_block_path(path, layers_per_block)
        layer_names[slot_name] = names.kohya_prefixes[component] + path.replace(".", "_")
    return layer_names


# For example down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q, and the same in mid_block, without a level
_ATTENTION = re.compile(r"(down_blocks|mid_block|up_blocks)(?:\.(\d+))?\.attentions\.(\d+)\.(.+)")


def _layers_per_block(slot_names: list[str]) -> int:
    """Of the UNet, whose up blocks have one attention more than that."""
    matches = [_ATTENTION.search(name) for name in slot_names]
    numbers = [int(match[3]) for match in matches if match is not None and match[1] == "up_blocks"]
    return max(numbers, default=0)


def _original_block_path(path: str, layers_per_block: int) -> str:
    """The path of an attention's layer in the original layout, which numbers all blocks of one side consecutively.

    Source: Stability AI, generative-models, sgm/modules/diffusionmodules/openaimodel.py
    """
    stage, level, index, leaf = _ATTENTION.fullmatch(path).groups()
    if stage == "mid_block":
        return f"middle_block.1.{leaf}"
    number = (layers_per_block + 1) * int(level) + int(index)
    if stage == "down_blocks":  # the first input block is a convolution
        return f"input_blocks.{number + 1}.1.{leaf}"
    return f"output_blocks.{number}.1.{leaf}"
