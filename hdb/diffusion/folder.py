"""Pipeline folders in diffusers' layout: found, checked to the last tensor and read; written whole or not at all."""

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

# The file of each part that has weights.
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
PARTS = (*WEIGHTS, "tokenizer", "scheduler")
_DESCRIPTIONS = [
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
    """The folder of a pipeline: the one given, or that of a hub id in the hub's cache, downloaded if need be.

    Args:
        revision: branch, tag or commit of a hub id.
        variant: of the weights to download: fp16 for *.fp16.safetensors.
        weights: download them as well, only as safetensors.

    Raises:
        ValueError: It is a single file, neither a folder nor a hub id, or not to be had from the hub.
    """
    name, found = str(path), Path(path)
    if found.is_dir():
        if revision is not None:
            raise ValueError(f"revision {revision!r} was given for the folder {name}: only a hub id has revisions")
        return found
    if found.is_file():
        read_safetensors_header(found)  # says so where it is a pickle
        raise ValueError(f"{name} is a single safetensors file: expected a folder in diffusers' layout or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ValueError(
            f"no Stable Diffusion at {name}: expected a folder in diffusers' layout or a hub id owner/name"
        )
    stems = [f"{part}/{Path(file).stem}" + (f".{variant}" if variant else "") for part, file in WEIGHTS.items()]
    files = [f"{stem}{ending}" for stem in stems for ending in (".safetensors", "-*-of-*.safetensors")]
    wanted = [*_DESCRIPTIONS, *(files if weights else ())]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # OSErrors, ValueErrors and those of the hub's HTTP library
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        asked = name if revision is None else f"{name} at revision {revision}"
        raise ValueError(
            f"no folder {name}, and the hub did not give {asked}: {reason}; expected a folder in diffusers' layout, or "
            "a hub id owner/name that is in the cache or can be downloaded"
        ) from error


def read_pipeline(folder: Path, *, variant: str | None = None) -> dict[str, Any]:
    """The parts of a Stable Diffusion by name, in float32. Nothing is ever unpickled, and no tensor is made up.

    Args:
        variant: as in `check_pipeline`.

    Raises:
        ValueError: It is no base, see `check_pipeline`, or a tensor is missing, superfluous, of another shape or not
            finite.
    """
    of = check_pipeline(folder, variant=variant)
    try:
        parts = {
            "unet": _read_weights(UNet2DConditionModel, folder, "unet", of["unet"], torch_dtype=torch.float32),
            "vae": _read_weights(AutoencoderKL, folder, "vae", of["vae"], torch_dtype=torch.float32),
            "text_encoder": _read_weights(
                CLIPTextModel, folder, "text_encoder", of["text_encoder"], dtype=torch.float32
            ),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            "scheduler": DDPMScheduler.from_pretrained(folder / "scheduler"),
        }
    except OSError as error:
        raise ValueError(
            f"cannot load a Stable Diffusion from {folder}: {str(error).strip().splitlines()[0]}"
        ) from error
    return parts


def write_pipeline(
    folder: str | Path,
    *,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
    about: Mapping[str, str],
) -> Path:
    """Writes a folder that `StableDiffusionPipeline.from_pretrained` reads, under a temporary name, and renames it.

    Args:
        about: provenance, put beside the parts as subject.json.

    Raises:
        OSError: The folder is there already, or it could not be written; then nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: expected the name of a new folder")
    for network in (unet, vae):
        network.register_to_config(_name_or_path="")  # where it once lay on this machine
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
            (temporary / "subject.json").write_text(json.dumps(dict(about), indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise OSError(f"could not write the pipeline to {folder}: {error}; nothing was written") from error
    return folder


def check_pipeline(folder: Path, *, variant: str | None = None, weights: bool = True) -> dict[str, str | None]:
    """Refuses a folder that is no base, from its descriptions and the headers of its weights: for looking and loading.

    Args:
        variant: of the weights: fp16 for *.fp16.safetensors; None takes those without one, else the one that is there.
        weights: look at them, too.

    Returns:
        The variant of each part that has weights.

    Raises:
        ValueError: It is another family of models or one for inpainting, lacks a part or its weights, is none of
            `hdb.diffusion.family`'s, or the weights are pickled or damaged.
    """
    check_index(folder)
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: expected folders {', '.join(PARTS)}")
    found: dict[str, str | None] = {}
    for part, name in WEIGHTS.items() if weights else ():
        found[part] = _variant(folder / part, name) if variant is None else variant
        for file in _weight_files(folder / part, name, found[part]):
            read_safetensors_header(file)
    check_configs(read_configs(folder), name=str(folder))
    return found


def _variant(folder: Path, name: str) -> str | None:
    """The variant of a part's weights where they have one, whole (model.fp16.safetensors) or divided."""
    stem = Path(name).stem
    if (folder / name).is_file() or (folder / f"{name}.index.json").is_file():
        return None
    whole = [
        path.name.removeprefix(f"{stem}.").removesuffix(".safetensors") for path in folder.glob(f"{stem}.*.safe*s")
    ]
    divided = [path.name.split(".")[-2] for path in folder.glob(f"{name}.index.*.json")]
    names = sorted({*(found for found in whole if "-of-" not in found), *divided})
    if len(names) > 1:
        raise ValueError(f"{folder} holds the variants {', '.join(names)}: expected one, or its name as base.variant")
    return names[0] if names else None


def _weight_files(folder: Path, name: str, variant: str | None) -> list[Path]:
    """The file of a part's weights, or those it is divided into."""
    index = folder / (f"{name}.index.{variant}.json" if variant else f"{name}.index.json")
    name = f"{Path(name).stem}.{variant}.safetensors" if variant else name
    if index.is_file() and not (folder / name).is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{index} is no readable list of shards: {error}") from None
    else:
        names = [name]
    if missing := [shard for shard in names if not (folder / shard).is_file()]:
        pickles = sorted(found.name for found in folder.glob("*.bin"))
        instead = f"holds the pickled {pickles[0]}, which was not read" if pickles else "holds no weights"
        raise ValueError(f"{folder} {instead}: expected {missing[0]}")
    return [folder / shard for shard in names]


def _read_weights(
    kind: type[nn.Module], folder: Path, part: str, variant: str | None, **dtype: torch.dtype
) -> nn.Module:
    how = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True, "variant": variant}
    model, report = kind.from_pretrained(folder / part, **how, **dtype)
    where = folder / part / WEIGHTS[part]
    for problem, keys in (("lacks", report["missing_keys"]), ("has an unknown", report["unexpected_keys"])):
        if keys:
            raise ValueError(f"{where} {problem} tensor {min(keys)}, one of {len(keys)}: expected those of config.json")
    for entry in sorted(report["mismatched_keys"], key=str):
        name, given, expected = entry if not isinstance(entry, str) else (entry, None, model.state_dict()[entry].shape)
        if given is None:  # transformers 4 gives names alone
            given = _stored_shape(_weight_files(folder / part, WEIGHTS[part], variant), name)
        raise ValueError(f"{where}: {name} has shape {tuple(given)}, but config.json says {tuple(expected)}")
    for name, value in model.state_dict().items():
        if bad := value.numel() - int(value.isfinite().sum()):
            raise ValueError(f"{where}: {name} has {bad} values of {value.numel()} that are not finite, expected 0")
    return model


def _stored_shape(files: list[Path], name: str) -> list[int]:
    headers = [read_safetensors_header(file)[0] for file in files]
    return next(
        header[key]["shape"] for header in headers for key in header if name.endswith(key) or key.endswith(name)
    )
