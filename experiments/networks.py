"""The networks that a config names, read from disk."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from experiments.config import Base, Judges
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.metrics.embedders import ClipEmbedder, FaceNet, TimmEmbedder
from hdb.metrics.networks import AttributeClassifier

TRAINED = "outputs/pretrain*/last.ckpt"
SHIPPED = Path("hdb/faceworld/weights/hypernet")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def stable_diffusion(config: Base, *, memory: str = "normal") -> StableDiffusion:
    """The frozen base."""
    if config.dtype not in DTYPES:
        raise ValueError(f"base.dtype is {config.dtype!r}, expected one of {', '.join(DTYPES)}")
    diffusion = StableDiffusion.from_pretrained(config.path, dtype=DTYPES[config.dtype], revision=config.revision)
    return fitted(diffusion, memory=memory)


def fitted(diffusion: StableDiffusion, *, memory: str) -> StableDiffusion:
    """With plain attention where there is no GPU, a quarter faster to train there; `low` memory trades time for it."""
    if memory not in ("normal", "low"):
        raise ValueError(f"memory is {memory!r}, expected normal or low")
    if not torch.cuda.is_available():
        diffusion.use_plain_attention()
    return diffusion.use_less_memory() if memory == "low" else diffusion


def device_of(accelerator: str) -> torch.device:
    """Where a Trainer with this accelerator works."""
    return Trainer(accelerator=accelerator, devices=1, logger=False, enable_progress_bar=False).strategy.root_device


def face_encoder(name: str) -> FaceEncoder:
    """A folder's encoder, or timm's network of that name with its weights."""
    if "/" in name or Path(name).is_dir():
        return FaceEncoder.from_folder(name)
    try:
        return FaceEncoder(name, pretrained=True)
    except RuntimeError as error:
        raise ValueError(f"no face encoder {name!r}: {' '.join(str(error).split())}") from None


def hypernet_path(asked: str | None) -> Path:
    """The hypernetwork asked for, else the newest of `make train`, else the shipped one. Prints which."""
    newest = max(Path().glob(TRAINED), key=lambda found: found.stat().st_mtime, default=SHIPPED)
    chosen = newest if asked is None else Path(asked)
    whose = "as asked" if asked is not None else "shipped" if chosen == SHIPPED else "the newest of make train"
    print(f"hypernetwork: {chosen} ({whose})")
    return chosen


def trained_hypernet(path: Path, *, encoder: str | None, diffusion: StableDiffusion) -> HyperNet:
    """A hypernetwork from a checkpoint or a folder.

    Args:
        encoder: what it was trained with, where its file does not hold that.
        diffusion: the base it shall write weights for.

    Raises:
        ValueError: it was trained on another base, or see `HyperNet.from_folder`.
    """
    read = HyperNet.from_checkpoint if path.suffix == ".ckpt" else HyperNet.from_folder
    hypernet = read(path, encoder=face_encoder(encoder) if encoder else None).eval()
    if hypernet.base_digest != diffusion.digest:
        raise ValueError(
            f"{path} was trained on the base {hypernet.base_digest}, not on {diffusion.name} ({diffusion.digest}): "
            "its weights would mean nothing there; name another one with hypernet=..."
        )
    return hypernet


@torch.no_grad()
def predict(hypernet: HyperNet, photos: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n p"]:
    """The hypernetwork's answer, on the CPU."""
    return hypernet(photos.to(hypernet.initial.device)).cpu()


class Embedders(NamedTuple):
    """The judges, read."""

    recognizer: TimmEmbedder | FaceNet
    dino: TimmEmbedder
    clip: ClipEmbedder
    classifier: AttributeClassifier | None  # of faceworld alone


def recognizer(source: str) -> TimmEmbedder | FaceNet:
    """Who says whether two pictures show one person: faceworld's own is a folder with a config.json, FaceNet is not."""
    if "/" in source and not Path(source).is_dir():
        raise ValueError(f"no face recognizer in {source}: expected a folder, or vggface2")
    if (Path(source) / "config.json").is_file():
        return TimmEmbedder.from_folder(source)
    return FaceNet.from_pretrained(source)


def embedders(config: Judges, *, device: torch.device) -> Embedders:
    """All judges of an evaluation."""
    return Embedders(
        recognizer(config.recognizer).to(device),
        TimmEmbedder.dino(config.dino).to(device),
        ClipEmbedder.from_pretrained(config.clip).to(device),
        None if config.classifier is None else AttributeClassifier.from_folder(config.classifier).to(device),
    )
