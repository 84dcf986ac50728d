"""Names of the layers that LiDB personalizes: canonical ones, and those of other programs' LoRA files.

What a family of bases has of its own stands beside its published configuration, in `configs/*/layers.json`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn

from hdb.files import ROOT

# Projections of one input: in attention to oneself of the same tokens, in attention to text all but the query.
SIBLINGS = ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj")
SIBLINGS_OF_TEXT = ("to_k", "to_v")
_PROJECTION_ORDER = ("to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class ComponentLayers:
    """The layers of a component that are personalized, and what LoRA files call them.

    Args:
        layers: A regular expression that is found in the module paths of those layers.
        canonical_prefix: Of their canonical names. Some versions of libraries leave it out of module paths.
        kohya_prefix: Of their names in kohya's format.
        kohya_blocks: `diffusers`, or `original` if kohya's format numbers a UNet's blocks as the original layout does.
    """

    layers: str
    canonical_prefix: str = ""
    kohya_prefix: str = ""
    kohya_blocks: str = "diffusers"


@dataclass(frozen=True)
class FamilyLayers:
    """The layers of a family of bases that are personalized, and what other programs call the family.

    Args:
        components: By name, in the order of theta.
        architectures: ModelSpec's names of the base, by prediction type.
        base_version: `ss_base_model_version` of kohya's scripts.
        a1111_version: "sd version" of A1111.
        text_width: Width of the text that attention reads, which tells a version from others of the same components.
        is_v2: `ss_v2` of kohya's scripts.
    """

    components: Mapping[str, ComponentLayers]
    architectures: Mapping[str, str] = field(default_factory=dict)
    base_version: str = ""
    a1111_version: str = ""
    text_width: int | None = None
    is_v2: bool = False

    @property
    def original_blocks(self) -> bool:
        """Whether kohya's format has block names of the original layout."""
        return any(component.kohya_blocks == "original" for component in self.components.values())


@cache
def read_families() -> tuple[FamilyLayers, ...]:
    """All families, those with fewer components first. Further versions in a file have the components of the first."""
    families = []
    for path in sorted(ROOT.glob("configs/*/layers.json")):
        components: dict[str, ComponentLayers] = {}
        for version in json.loads(path.read_text(encoding="utf-8")):
            described = version.pop("components", {})
            components = {name: ComponentLayers(**about) for name, about in described.items()} or components
            families.append(FamilyLayers(components, **version))
    return tuple(sorted(families, key=lambda family: len(family.components)))


def find_family(components: Iterable[str], *, text_width: int | None = None) -> FamilyLayers:
    """The family that has these components.

    Args:
        text_width: Of the text that attention reads, if it is known.

    Raises:
        ValueError: There is none.
    """
    names = set(components)
    fitting = [family for family in read_families() if names <= set(family.components)]
    if not fitting:
        known = "; ".join(", ".join(family.components) for family in read_families() if family.text_width is None)
        raise ValueError(f"no family of bases has the components {', '.join(sorted(names))}: expected some of {known}")
    of_width = [family for family in fitting if family.text_width is not None and family.text_width == text_width]
    return (of_width or fitting)[0]


def find_target_layers(components: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    """The linear layers that LiDB personalizes, by canonical name and in canonical order.

    Canonical names are the keys of published diffusers LoRA files, not today's module paths: transformers 5 dropped
    `text_model.` from the paths of CLIPTextModel. The order is canonical as well, because diffusers registers a UNet's
    up blocks before its middle block. Neither may change the meaning of a stored theta.

    Args:
        components: The networks that are personalized, by name and in the order of theta.

    Raises:
        ValueError: No family of bases has such components.
    """
    family = find_family(components)
    layers = {}
    for component, model in components.items():
        about = family.components[component]
        found = {
            about.canonical_prefix + path.removeprefix(about.canonical_prefix): module
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and re.search(about.layers, path)
        }
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


def diffusers_keys(slot_name: str) -> tuple[str, str]:
    """The keys of down and up of a slot in a LoRA file in diffusers' format."""
    infix = "lora_linear_layer" if is_text_encoder(component_of(slot_name)) else "lora"
    return f"{slot_name}.{infix}.down.weight", f"{slot_name}.{infix}.up.weight"


def kohya_layer_names(slot_names: Iterable[str], family: FamilyLayers) -> dict[str, str]:
    """The name of the layer of each slot in a LoRA file in kohya's format.

    >>> slot = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    >>> kohya_layer_names([slot], find_family(["unet"]))[slot]
    'lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q'
    """
    slot_names = list(slot_names)
    layers_per_block = _layers_per_block(slot_names) if family.original_blocks else 0
    layer_names = {}
    for slot_name in slot_names:
        component, _, path = slot_name.partition(".")
        about = family.components[component]
        if about.kohya_blocks == "original":
            path = _original_block_path(path, layers_per_block)
        layer_names[slot_name] = about.kohya_prefix + path.replace(".", "_")
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
