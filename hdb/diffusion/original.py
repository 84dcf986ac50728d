"""Single files in the original layout, which ComfyUI and A1111 load: reads and writes them.

    UNet                  model.diffusion_model.
    autoencoder           first_stage_model.
    text encoder of 1.x   cond_stage_model.transformer.
    text encoders of XL   conditioner.embedders.0.transformer.  conditioner.embedders.1.model.

The networks are those of a diffusers folder. `hdb.diffusion.original_names` says what their tensors are called.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTokenizer

from hdb.diffusion.families.family import Family
from hdb.diffusion.families.table import FAMILIES, family_of_pipeline
from hdb.diffusion.folder import PipelineParts, check_pipeline, common_dtype, find_pipeline
from hdb.diffusion.original_names import original_tensors
from hdb.files import content_hash, read_safetensors_header, write_safetensors
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import modelspec_fields, provenance_fields

if TYPE_CHECKING:
    from hdb.diffusion.stable_diffusion import StableDiffusion

_UNET_PREFIX = "model.diffusion_model."  # in every family
# What single files hold beside the tensors of our networks: not parameters, and OpenCLIP's temperature of training.
_UNUSED_ENDINGS = ("position_ids", "logit_scale")


def write_checkpoint(
    path: str | Path, base: StableDiffusion, *, subject: Subject, title: str, thumbnail: str = ""
) -> Path:
    """Writes a base with a subject merged into it as a single file, atomically.

    Args:
        subject: Whose metadata the file gets.
        title: Shown by user interfaces.
        thumbnail: A small picture as a data URL.

    Raises:
        ValueError: Single files of such a base are not supported.
        OSError: It could not be written.
    """
    base.family.check_original_layout(base.networks)
    tensors = {}
    for part in base.family.original_prefixes:
        model = base.networks[part]
        state_dict = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        for original in original_tensors(part, model, base.family):
            tensors[original.name] = original.join(state_dict).contiguous()
    metadata = {"format": "pt"}
    metadata.update(provenance_fields(subject))
    metadata.update(
        modelspec_fields(subject, title=title, content_hash=content_hash(tensors), lora=False, thumbnail=thumbnail)
    )
    return write_safetensors(path, tensors, metadata)


def read_checkpoint(path: Path, config: str | Path | None = None) -> PipelineParts:
    """Reads the parts of a single file, in float32. Nothing is unpickled, and no tensor is left uninitialized.

    Args:
        config: A pipeline's folder or hub id, for the configurations and the tokenizers, which a single file lacks.
            None is the published base of the file's family.

    Raises:
        ValueError: It is not such a file, or a tensor is missing, unexpected, of another shape or not finite.
    """
    header, metadata = read_safetensors_header(path)
    config_folder = None if config is None else find_pipeline(config, weights=False)
    family = _family_of_tensors(header, path)
    if config_folder is None:
        try:
            config_folder = find_pipeline(family.hub_ids[0], weights=False)
        except ValueError as error:
            raise ValueError(
                f"{path} lacks configurations and tokenizers, which are taken from {family.hub_ids[0]} unless "
                f"base.config names a folder: {error}"
            ) from error
    check_pipeline(config_folder, weights=False)
    described = family_of_pipeline(config_folder)
    if described is not family:
        raise ValueError(
            f"{path} holds the text encoders of Stable Diffusion {family.versions}, and base.config describes "
            f"{described.versions}: expected base.config of its base"
        )
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


def _family_of_tensors(names: Collection[str], path: Path) -> Family:
    """The family that a single file belongs to, by its text encoders.

    Raises:
        ValueError: It has no UNet, or text encoders of no supported family.
    """

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if not has(_UNET_PREFIX):
        raise ValueError(f"{path} holds no UNet: expected tensors called {_UNET_PREFIX}..., as whole models have them")
    supported = [family for family in FAMILIES if family.original_prefixes]
    if has("cond_stage_model.model."):
        raise ValueError(f"{path} holds the text encoder of a 2.x: expected a 1.x, or a folder in diffusers' layout")
    for family in supported:
        if all(has(family.original_prefixes[part]) for part in family.text_encoders):
            return family
    expected = " or ".join(
        ", ".join(f"{family.original_prefixes[part]}..." for part in family.text_encoders) for family in supported
    )
    raise ValueError(f"{path} holds the text encoders of no base that is supported: expected tensors called {expected}")


def _load_weights(model: nn.Module, tensors: dict[str, Tensor], part: str, path: Path, family: Family) -> None:
    """Fills a model on the meta device with the file's tensors, after checking each."""
    expected_state = model.state_dict()
    state_dict = {}
    for original in original_tensors(part, model, family):
        value = tensors.pop(original.name, None)
        if value is None:
            raise ValueError(
                f"{path} lacks tensor {original.name}: expected those of the {part} that base.config describes"
            )
        expected = original.join(expected_state).shape
        # Some files hold the attention projections of the autoencoder as matrices.
        if value.shape != expected and not (original.is_convolution and value.shape == expected[:2]):
            raise ValueError(
                f"{path}: {original.name} has shape {tuple(value.shape)}, but base.config says {tuple(expected)}"
            )
        num_bad = value.numel() - int(value.isfinite().sum())
        if num_bad:
            raise ValueError(
                f"{path}: {original.name} has {num_bad} values of {value.numel()} that are not finite, expected 0"
            )
        state_dict |= original.split(value.float(), expected_state)
    unknown = sorted(name for name in tensors if not name.endswith(_UNUSED_ENDINGS))
    if unknown:
        raise ValueError(
            f"{path} has an unknown tensor {unknown[0]}, one of {len(unknown)}: expected those of base.config"
        )
    model.load_state_dict(state_dict, assign=True)
    for module in model.modules():  # position ids are not stored
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
