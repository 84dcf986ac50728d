"""Pipeline folders in diffusers' layout: finds, checks, reads and writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTokenizer

from hdb.diffusion.families.family import Family, read_json
from hdb.diffusion.families.table import FAMILIES, family_of_pipeline
from hdb.diffusion.options import check_base_path
from hdb.diffusion.published import publish
from hdb.files import atomic_write, read_safetensors_header
from hdb.lidb.names import is_text_encoder
from hdb.progress import hidden_loading_bars

_HALF_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}  # by their names in safetensors files
_CONFIG_PATTERNS = [
    "model_index.json",
    "*/*.safetensors.index.json",
    "*/*.safetensors.index.*.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer*/*.json",
    "tokenizer*/*.txt",
]


@dataclass(frozen=True)
class PipelineParts:
    """What is read of a base.

    Args:
        parts: Networks, tokenizers and scheduler by name.
        family: That the parts are of.
        settings: Further arguments of the pipeline's class.
        stored_dtypes: The precision of each network's weights in their files, as `common_dtype` finds it.
    """

    parts: dict[str, Any]
    family: Family
    settings: dict[str, Any]
    stored_dtypes: dict[str, torch.dtype]


def find_pipeline(
    path: str | Path, *, revision: str | None = None, variant: str | None = None, weights: bool = True
) -> Path:
    """The folder of a pipeline: the path itself, or that of a hub id in the hub's cache, downloaded if necessary.

    Args:
        revision: Branch, tag or commit of a hub id.
        variant: Of the weights to download: fp16 for *.fp16.safetensors.
        weights: Download the weights as well, as safetensors only.

    Raises:
        ValueError: It is a single file, neither a folder nor a hub id, or cannot be downloaded.
    """
    name = str(path)
    path = Path(path)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision {revision!r} was given for the folder {name}: only a hub id has revisions")
        return path
    if path.is_file():
        read_safetensors_header(path)  # raises if it is a pickle
        raise ValueError(f"{name} is a single safetensors file: expected a folder in diffusers' layout or a hub id")
    check_base_path(name)
    patterns = list(_CONFIG_PATTERNS)
    if weights:
        suffix = f".{variant}" if variant else ""
        weights_files = {part: family.weights_file(part) for family in FAMILIES for part in family.network_classes}
        for part, file in weights_files.items():
            stem = f"{part}/{Path(file).stem}{suffix}"
            patterns += [f"{stem}.safetensors", f"{stem}-*-of-*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # OSError, ValueError, and errors of the hub's HTTP library
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        requested = name if revision is None else f"{name} at revision {revision}"
        raise ValueError(
            f"no folder {name}, and the hub did not give {requested}: {reason}; expected a folder in diffusers' "
            "layout, or a hub id owner/name that is in the cache or can be downloaded"
        ) from error


def read_pipeline(folder: Path, *, variant: str | None = None) -> PipelineParts:
    """Reads the parts of a Stable Diffusion, in float32. Nothing is unpickled, and no tensor is left uninitialized.

    Args:
        variant: As in `check_pipeline`.

    Raises:
        ValueError: As `check_pipeline`, or a tensor is missing, unexpected, of another shape or not finite.
    """
    variants = check_pipeline(folder, variant=variant)
    family = family_of_pipeline(folder)
    parts: dict[str, Any] = {}
    stored_dtypes: dict[str, torch.dtype] = {}
    try:
        for part in family.network_classes:
            parts[part] = _read_weights(family, folder, part, variants[part])
            files = _weight_files(folder / part, family.weights_file(part), variants[part])
            stored_dtypes[part] = common_dtype([read_safetensors_header(file)[0] for file in files])
        for tokenizer in family.tokenizers.values():
            parts[tokenizer] = CLIPTokenizer.from_pretrained(folder / tokenizer)
        parts["scheduler"] = DDPMScheduler.from_pretrained(folder / "scheduler")
    except OSError as error:
        raise ValueError(
            f"cannot load a Stable Diffusion from {folder}: {str(error).strip().splitlines()[0]}"
        ) from error
    settings = family.pipeline_settings(read_json(folder / "model_index.json"))
    return PipelineParts(parts, family, settings, stored_dtypes)


def common_dtype(headers: Sequence[Mapping[str, Mapping[str, Any]]]) -> torch.dtype:
    """The half precision that all floating-point tensors of safetensors files share; float32 if there is none.

    >>> common_dtype([{"weight": {"dtype": "F16"}, "position_ids": {"dtype": "I64"}}])
    torch.float16
    """
    names = {entry["dtype"] for header in headers for entry in header.values()}
    names = {name for name in names if "F" in name}  # not integers
    return _HALF_DTYPES.get(names.pop(), torch.float32) if len(names) == 1 else torch.float32


def write_pipeline(
    folder: str | Path,
    parts: Mapping[str, Any],
    *,
    family: Family,
    settings: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> Path:
    """Writes a folder that diffusers' pipeline of this family reads, atomically.

    Args:
        parts: Networks, tokenizers and scheduler by name.
        settings: Further arguments of the pipeline's class.
        metadata: Provenance, written beside the parts as subject.json.

    Raises:
        OSError: The folder exists already, or it could not be written. Nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: expected the name of a new folder")
    for part in family.network_classes:
        if not is_text_encoder(part):
            parts[part].register_to_config(_name_or_path="")  # would be a path on this machine
    pipeline = family.pipeline_class(**parts, **settings)
    try:
        with atomic_write(folder) as temporary:
            pipeline.save_pretrained(temporary, safe_serialization=True)
            publish(temporary)
            (temporary / "subject.json").write_text(json.dumps(dict(metadata), indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise OSError(f"could not write the pipeline to {folder}: {error}; nothing was written") from error
    return folder


def check_pipeline(folder: Path, *, variant: str | None = None, weights: bool = True) -> dict[str, str | None]:
    """Checks that a folder holds a supported base, by its configurations and the headers of its weights.

    Args:
        variant: Of the weights: fp16 for *.fp16.safetensors. None takes those without a variant, else the one there is.
        weights: Check the weights' headers as well.

    Returns:
        The variant of each part that has weights.

    Raises:
        ValueError: It is another family of models or an inpainting model, lacks a part or its weights, fails
            `Family.check_configs`, or the weights are pickled or damaged.
    """
    family = family_of_pipeline(folder)
    missing = [part for part in family.parts if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: expected folders {', '.join(family.parts)}")
    variants: dict[str, str | None] = {}
    if weights:
        for part in family.network_classes:
            name = family.weights_file(part)
            variants[part] = _find_variant(folder / part, name) if variant is None else variant
            for file in _weight_files(folder / part, name, variants[part]):
                read_safetensors_header(file)
    family.check_configs(family.read_configs(folder), name=str(folder))
    return variants


def _find_variant(folder: Path, name: str) -> str | None:
    """The variant of a part's weights, if they have one, whether in one file (model.fp16.safetensors) or sharded."""
    stem = Path(name).stem
    if (folder / name).is_file() or (folder / f"{name}.index.json").is_file():
        return None
    variants = set()
    for path in folder.glob(f"{stem}.*.safetensors"):
        variant = path.name.removeprefix(f"{stem}.").removesuffix(".safetensors")
        if "-of-" not in variant:  # a shard
            variants.add(variant)
    for path in folder.glob(f"{name}.index.*.json"):
        variants.add(path.name.split(".")[-2])
    if len(variants) > 1:
        names = ", ".join(sorted(variants))
        raise ValueError(f"{folder} holds the variants {names}: expected one, or its name as base.variant")
    return next(iter(variants), None)


def _weight_files(folder: Path, name: str, variant: str | None) -> list[Path]:
    """The file of a part's weights, or its shards."""
    index = folder / (f"{name}.index.{variant}.json" if variant else f"{name}.index.json")
    if variant:
        name = f"{Path(name).stem}.{variant}.safetensors"
    if index.is_file() and not (folder / name).is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{index} is no readable list of shards: {error}") from None
    else:
        names = [name]
    missing = [shard for shard in names if not (folder / shard).is_file()]
    if missing:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        problem = f"holds the pickled {pickles[0]}, which was not read" if pickles else "holds no weights"
        raise ValueError(f"{folder} {problem}: expected {missing[0]}")
    return [folder / shard for shard in names]


def _read_weights(family: Family, folder: Path, part: str, variant: str | None) -> nn.Module:
    """Reads a part in float32 and refuses weights that do not match its config."""
    dtype_name = "dtype" if is_text_encoder(part) else "torch_dtype"  # in transformers, in diffusers
    with hidden_loading_bars():
        model, loading_info = family.network_classes[part].from_pretrained(
            folder / part,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            variant=variant,
            **{dtype_name: torch.float32},
        )
    path = folder / part / family.weights_file(part)
    for problem, names in (
        ("lacks", loading_info["missing_keys"]),
        ("has an unknown", loading_info["unexpected_keys"]),
    ):
        if names:
            raise ValueError(
                f"{path} {problem} tensor {min(names)}, one of {len(names)}: expected those of config.json"
            )
    for entry in sorted(loading_info["mismatched_keys"], key=str):
        if isinstance(entry, str):  # transformers 4 reports names alone
            name = entry
            shape = _stored_shape(_weight_files(folder / part, family.weights_file(part), variant), name)
            expected_shape = model.state_dict()[name].shape
        else:
            name, shape, expected_shape = entry
        raise ValueError(f"{path}: {name} has shape {tuple(shape)}, but config.json says {tuple(expected_shape)}")
    for name, value in model.state_dict().items():
        num_bad = value.numel() - int(value.isfinite().sum())
        if num_bad:
            raise ValueError(f"{path}: {name} has {num_bad} values of {value.numel()} that are not finite, expected 0")
    return model


def _stored_shape(files: list[Path], name: str) -> list[int]:
    """The shape of a tensor in the files, where its name may have another prefix than in the model."""
    for file in files:
        tensors, _ = read_safetensors_header(file)
        for stored_name, entry in tensors.items():
            if stored_name.endswith(name) or name.endswith(stored_name):
                return entry["shape"]
    raise ValueError(f"no tensor {name} in {', '.join(map(str, files))}")
