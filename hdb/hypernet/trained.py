"""Trained networks, read from disk: face encoders by name, the hypernetwork that is asked for or the newest."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.files import shipped
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.folder import WEIGHTS, refuse_missing
from hdb.hypernet.hypernet import HyperNet

TRAINED = "outputs/pretrain*/last.ckpt"
SHIPPED = shipped("hdb/faceworld/weights/hypernet")


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


def refuse_missing_networks(*, hypernet: Path | None = None, encoder: str | None = None) -> None:
    """Raises ValueError if one of them is a path and not there: before something large is read for nothing."""
    if encoder is not None and ("/" in encoder or Path(encoder).is_dir()):
        refuse_missing(encoder, kind="a face encoder")
    if hypernet is not None and hypernet.suffix != ".ckpt":
        refuse_missing(hypernet, kind="a hypernetwork")
    elif hypernet is not None and not hypernet.is_file():
        raise ValueError(f"no checkpoint at {hypernet}")


def trained_hypernet(
    path: Path, *, encoder: str | None, base: str, base_digest: str, check: str = "digest"
) -> HyperNet:
    """A hypernetwork from a checkpoint or a folder.

    Args:
        encoder: what it was trained with, where its file does not hold that.
        base: name of the base it shall write weights for.
        base_digest: of that base.
        check: shapes takes a network of another base, too, and says so.

    Raises:
        ValueError: it was trained on another base, or see `HyperNet.from_folder`.
    """
    read = HyperNet.from_checkpoint if path.suffix == ".ckpt" else HyperNet.from_folder
    hypernet = read(path, encoder=face_encoder(encoder) if encoder else None).eval()
    if hypernet.base_digest != base_digest:
        told = f"{path} was trained on the base {hypernet.base_digest}, not on {base} ({base_digest})"
        if check == "digest":
            raise ValueError(
                f"{told}: its weights would mean nothing there; name another one with hypernet=..., or take it to a "
                "finetune of its base with base.check=shapes"
            )
        print(f"warning: {told}")
    return hypernet


def weights_digest(path: Path) -> str:
    """Sixteen hex digits of the weights in a hypernetwork's folder, or of its checkpoint."""
    return hashlib.sha256((path / WEIGHTS if path.is_dir() else path).read_bytes()).hexdigest()[:16]


def written_at(path: Path) -> str:
    """When a hypernetwork's file, or the newest in its folder, was written: what a run with it depends on."""
    return str(max(file.stat().st_mtime_ns for file in (path, *path.glob("*"))))


@torch.no_grad()
def predict(
    hypernet: HyperNet, photos: Float[Tensor, "n 3 h w"], *, iterations: int | None = None
) -> Float[Tensor, "n p"]:
    """The hypernetwork's answer, on the CPU; `iterations` overrides its own number."""
    return hypernet(photos.to(hypernet.initial.device), iterations=iterations).cpu()
