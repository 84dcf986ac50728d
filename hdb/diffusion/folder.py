"""Pipeline folders in diffusers' layout: finds, checks, reads and writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.diffusion.family import check_configs, check_index, read_configs
from hdb.diffusion.published import publish
from hdb.files import atomic_write, read_safetensors_header
from hdb.progress import hidden_loading_bars

# The weights file of each part that has weights.
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
PARTS = (*WEIGHTS, "tokenizer", "scheduler")
_CONFIG_PATTERNS = [
    "model_index.json",
    "*/*.safetensors.index.json",
    "*/*.safetensors.index.*.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
]


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
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ValueError(
            f"no Stable Diffusion at {name}: expected a folder in diffusers' layout or a hub id owner/name"
        )
    patterns = list(_CONFIG_PATTERNS)
    if weights:
        suffix = f".{variant}" if variant else ""
        for part, file in WEIGHTS.items():
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


def read_pipeline(folder: Path, *, variant: str | None = None) -> dict[str, Any]:
    """Reads the parts of a Stable Diffusion, in float32. Nothing is unpickled, and no tensor is left uninitialized.

    Args:
        variant: As in `check_pipeline`.

    Returns:
        unet, vae, text_encoder, tokenizer and scheduler by name.

    Raises:
        ValueError: As `check_pipeline`, or a tensor is missing, unexpected, of another shape or not finite.
    """
    variants = check_pipeline(folder, variant=variant)
    try:
        return {
            "unet": _read_weights(UNet2DConditionModel, folder, "unet", variants["unet"], dtype_name="torch_dtype"),
            "vae": _read_weights(AutoencoderKL, folder, "vae", variants["vae"], dtype_name="torch_dtype"),
            "text_encoder": _read_weights(
                CLIPTextModel, folder, "text_encoder", variants["text_encoder"], dtype_name="dtype"
            ),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            "scheduler": DDPMScheduler.from_pretrained(folder / "scheduler"),
        }
    except OSError as error:
        raise ValueError(
            f"cannot load a Stable Diffusion from {folder}: {str(error).strip().splitlines()[0]}"
        ) from error


def write_pipeline(
    folder: str | Path,
    *,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
    metadata: Mapping[str, str],
) -> Path:
    """Writes a folder that `StableDiffusionPipeline.from_pretrained` reads, atomically.

    Args:
        metadata: Provenance, written beside the parts as subject.json.

    Raises:
        OSError: The folder exists already, or it could not be written. Nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: expected the name of a new folder")
    for network in (unet, vae):
        network.register_to_config(_name_or_path="")  # would be a path on this machine
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
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
            `check_configs`, or the weights are pickled or damaged.
    """
    check_index(folder)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: expected folders {', '.join(PARTS)}")
    variants: dict[str, str | None] = {}
    if weights:
        for part, name in WEIGHTS.items():
            variants[part] = _find_variant(folder / part, name) if variant is None else variant
            for file in _weight_files(folder / part, name, variants[part]):
                read_safetensors_header(file)
    check_configs(read_configs(folder), name=str(folder))
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


def _read_weights(
    model_class: type[nn.Module], folder: Path, part: str, variant: str | None, *, dtype_name: str
) -> nn.Module:
    """Reads a part in float32 and refuses weights that do not match its config.

    Args:
        dtype_name: The library's name of the argument: torch_dtype in diffusers, dtype in transformers.
    """
    with hidden_loading_bars():
        model, loading_info = model_class.from_pretrained(
            folder / part,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            variant=variant,
            **{dtype_name: torch.float32},
        )
    path = folder / part / WEIGHTS[part]
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
            shape = _stored_shape(_weight_files(folder / part, WEIGHTS[part], variant), name)
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
