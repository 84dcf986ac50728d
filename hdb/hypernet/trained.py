"""Trained networks, read from disk: face encoders by name, the hypernetwork that is asked for or the newest."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.files import resolve_shipped
from hdb.hypernet.encoder import FaceEncoder, check_timm_model
from hdb.hypernet.folder import CONFIG, WEIGHTS, check_network_folder
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.options import standardize_embeddings

TRAINED_CHECKPOINTS = "outputs/pretrain*/last.ckpt"
SWEEP_RECORDS = "outputs/pretrain*-*/*/metrics.json"  # of the finished runs of agents: outputs/pretrain-<sweep>/<run>
BEST_OF_SWEEP, SWEEP_METRIC = (
    "best",
    "val/face_rec",
)  # the metric of configs/sweep/pretrain.yaml: no swept field touches its protocol
SHIPPED_HYPERNET = resolve_shipped("hdb/faceworld/weights/hypernet")


def load_face_encoder(name: str) -> FaceEncoder:
    """A folder's encoder, or timm's network of that name with its weights."""
    if "/" in name or Path(name).is_dir():
        return FaceEncoder.from_folder(name)
    try:
        return FaceEncoder(name, pretrained=True)
    except RuntimeError as error:
        raise ValueError(f"no face encoder {name!r}: {' '.join(str(error).split())}") from None


def resolve_hypernet_path(asked: str | None) -> Path:
    """The hypernetwork asked for, else the newest of `make train`, else the shipped one. Prints which.

    Args:
        asked: a path, or the word best: the best finished run of the newest sweep.

    Raises:
        ValueError: the best is asked for, and no run of a sweep is finished here.
    """
    if asked == BEST_OF_SWEEP:
        return best_of_newest_sweep()
    newest = max(Path().glob(TRAINED_CHECKPOINTS), key=lambda found: found.stat().st_mtime, default=SHIPPED_HYPERNET)
    chosen = newest if asked is None else Path(asked)
    whose = "as asked" if asked is not None else "shipped" if chosen == SHIPPED_HYPERNET else "the newest of make train"
    print(f"hypernetwork: {chosen} ({whose})")
    return chosen


def best_of_newest_sweep() -> Path:
    """The checkpoint of the best finished run of the sweep whose run finished last. Prints which."""
    newest = max(Path().glob(SWEEP_RECORDS), key=lambda found: found.stat().st_mtime, default=None)
    scores = {} if newest is None else scores_of_finished_runs(newest.parents[1])
    if not scores:
        raise ValueError(
            f"hypernet is best, but no {SWEEP_RECORDS} tells of a sweep's finished run with {SWEEP_METRIC}"
        )
    best = max(scores, key=scores.__getitem__)
    print(f"hypernetwork: {best / 'last.ckpt'} (best of {len(scores)} runs by {SWEEP_METRIC}: {scores[best]:.4f})")
    return best / "last.ckpt"


def scores_of_finished_runs(sweep: Path) -> dict[Path, float]:
    """The folders of a sweep's finished runs on this machine, with what they are compared by, the oldest first."""
    records = sorted(sweep.glob("*/metrics.json"), key=lambda found: found.stat().st_mtime)
    scores = {record.parent: json.loads(record.read_text()).get(SWEEP_METRIC) for record in records}
    return {folder: score for folder, score in scores.items() if score is not None}


def check_networks_exist(*, hypernet: Path | None = None, encoder: str | None = None) -> None:
    """Raises ValueError if one of them is not there, or unknown to timm: before something large is read for nothing."""
    if encoder is not None and ("/" in encoder or Path(encoder).is_dir()):
        check_network_folder(encoder, kind="a face encoder")
    elif encoder is not None:
        check_timm_model(encoder)
    if hypernet is not None and hypernet.suffix != ".ckpt":
        check_network_folder(hypernet, kind="a hypernetwork")
    elif hypernet is not None and not hypernet.is_file():
        raise ValueError(f"no checkpoint at {hypernet}")


def load_hypernet(path: Path, *, encoder: str | None, base: str, base_digest: str, check: str = "digest") -> HyperNet:
    """A hypernetwork from a checkpoint or a folder.

    Args:
        encoder: what it was trained with, where its file does not hold that.
        base: name of the base it is to write weights for.
        base_digest: of that base.
        check: shapes takes a network of another base, too, and says so.

    Raises:
        ValueError: it was trained on another base, or see `HyperNet.from_folder`.
    """
    hypernet = _read(path, load_face_encoder(encoder) if encoder else None).eval()
    _refuse_other_base(hypernet, path, base=base, base_digest=base_digest, check=check)
    return hypernet


def _read(path: Path, encoder: FaceEncoder | None) -> HyperNet:
    read = HyperNet.from_checkpoint if path.suffix == ".ckpt" else HyperNet.from_folder
    return read(path, encoder=encoder)


def _refuse_other_base(
    hypernet: HyperNet, path: Path, *, base: str, base_digest: str, check: str, field: str = "hypernet"
) -> None:
    if hypernet.base_digest != base_digest:
        told = f"{path} was trained on the base {hypernet.base_digest}, not on {base} ({base_digest})"
        if check == "digest":
            raise ValueError(
                f"{told}: its weights would mean nothing there; name another one with {field}=..., or take it to a "
                "finetune of its base with base.check=shapes"
            )
        print(f"warning: {told}")


def compute_hypernet_digest(path: Path) -> str:
    """Sixteen hex digits of the weights in a hypernetwork's folder, or of its checkpoint."""
    return hashlib.sha256((path / WEIGHTS if path.is_dir() else path).read_bytes()).hexdigest()[:16]


def modification_time(path: Path) -> str:
    """When a hypernetwork's file, or the newer of its folder's two, was written: what a run with it depends on.

    What else lies there, as what its gate compares people with, changes no run.
    """
    files = (path / CONFIG, path / WEIGHTS) if path.is_dir() else (path,)
    return str(max(file.stat().st_mtime_ns for file in files))


def initialize_hypernet(
    hypernet: HyperNet,
    init_from: str | None,
    references: Iterable[Float[Tensor, "3 h w"]],
    *,
    device: torch.device,
    check: str = "digest",
) -> None:
    """The weights that a training begins with: another network's, or new ones standardized by some references.

    Args:
        init_from: a run's folder, a checkpoint, or a folder of a hypernetwork.
        references: of training people.
        device: where the encoder looks at them.
        check: see `load_hypernet`.

    Raises:
        ValueError: a network that is not there, or of another base, layout, encoder or shape.
    """
    if init_from is None:
        standardize_embeddings(hypernet, references, device=device)
        return
    path = resolve_checkpoint(init_from)
    other = _read(path, hypernet.encoder)
    hypernet.encoder.requires_grad_(not hypernet.freeze_encoder)  # which reading the other around it has set
    hypernet.train(hypernet.training)
    of = {"base": "that of this run", "base_digest": hypernet.base_digest, "check": check}
    _refuse_other_base(other, path, field="init_from", **of)
    hypernet.decoder_layout.check_digest(other.decoder_layout.digest, name=str(path))
    own, its = ({"decoder": net.decoder.config, "bases": net.bases is not None} for net in (hypernet, other))
    if own != its:
        raise ValueError(f"{path} is a hypernetwork of {its}, expected one of {own} to begin from")
    if hypernet.freeze_encoder and not other.freeze_encoder:
        raise ValueError(f"{path} has an encoder that was trained with it: expected hypernet.freeze_encoder=false")
    hypernet.load_trainable_state_dict(other.trainable_state_dict() if hypernet.freeze_encoder else other.state_dict())


def resolve_checkpoint(named: str) -> Path:
    """The checkpoint of a run's folder, or what is named itself: a checkpoint, or a hypernetwork's folder."""
    path, last = Path(named), Path(named, "last.ckpt")
    return last if last.is_file() else path


@torch.no_grad()
def predict(
    hypernet: HyperNet, photos: Float[Tensor, "n 3 h w"], *, iterations: int | None = None
) -> Float[Tensor, "n p"]:
    """The hypernetwork's answer, on the CPU; `iterations` overrides its own number."""
    return hypernet(photos.to(hypernet.initial.device), iterations=iterations).cpu()
