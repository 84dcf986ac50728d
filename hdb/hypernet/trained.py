"""Finds and loads trained networks: face encoders by name, and the hypernetwork that was asked for or the newest."""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.files import resolve_shipped
from hdb.hypernet.encoder import FaceEncoder, check_timm_model
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.network_files import CONFIG, WEIGHTS, check_hypernet, check_network_folder, resolve_checkpoint

TRAINED_CHECKPOINTS = "outputs/pretrain*/last.ckpt"  # of `make train`
SWEEP_RECORDS = "outputs/pretrain*-*/*/metrics.json"  # of finished runs of a sweep: outputs/pretrain-<sweep>/<run>
SHIPPED_HYPERNET = "hdb/faceworld/weights/hypernet"
SHIPPED_BASE = "hdb/faceworld/weights/base"
BEST_OF_SWEEP = "best"
SWEEP_METRIC = "val/face_rec"  # the metric of configs/sweep/pretrain.yaml, which sweeps nothing that it depends on
NUM_REFERENCES_FOR_STANDARDIZATION = 256


def load_face_encoder(name: str) -> FaceEncoder:
    """Loads a face encoder from a folder, or timm's model of that name with its published weights.

    Raises:
        ValueError: There is no such folder or model, or its weights are not available.
    """
    if _is_folder_name(name):
        return FaceEncoder.from_folder(name)
    try:
        return FaceEncoder(name, pretrained=True)
    except RuntimeError as error:
        raise ValueError(f"no face encoder {name!r}: {' '.join(str(error).split())}") from None


def resolve_hypernet_path(path: str | None) -> Path:
    """The path of the hypernetwork to use: the given one, else the newest of `make train`, else the shipped one.

    Prints which one it is.

    Args:
        path: A checkpoint, a hypernetwork's folder or that of its run; `best` is the best run of the newest sweep;
            None chooses.

    Raises:
        ValueError: The best of a sweep is asked for and no sweep has a finished run.
    """
    if path == BEST_OF_SWEEP:
        return best_checkpoint_of_newest_sweep()
    if path is not None:
        print(f"hypernetwork: {path} (as asked)")
        return resolve_checkpoint(path)
    newest = max(Path().glob(TRAINED_CHECKPOINTS), key=_modified, default=None)
    if newest is None:
        shipped = resolve_shipped(SHIPPED_HYPERNET)
        print(f"hypernetwork: {shipped} (shipped)")
        return shipped
    print(f"hypernetwork: {newest} (the newest of make train)")
    return newest


def best_checkpoint_of_newest_sweep() -> Path:
    """The checkpoint of the best finished run, in the sweep whose last run finished most recently. Prints which."""
    newest_record = max(Path().glob(SWEEP_RECORDS), key=_modified, default=None)
    scores = {} if newest_record is None else scores_of_finished_runs(newest_record.parents[1])
    if not scores:
        raise ValueError(
            f"hypernet is best, but no {SWEEP_RECORDS} tells of a sweep's finished run with {SWEEP_METRIC}"
        )
    best_run = max(scores, key=scores.__getitem__)
    checkpoint = best_run / "last.ckpt"
    print(f"hypernetwork: {checkpoint} (best of {len(scores)} runs by {SWEEP_METRIC}: {scores[best_run]:.4f})")
    return checkpoint


def scores_of_finished_runs(sweep: Path) -> dict[Path, float]:
    """{run folder: value of SWEEP_METRIC} of a sweep's finished runs on this machine, the oldest first."""
    scores = {}
    for record in sorted(sweep.glob("*/metrics.json"), key=_modified):
        score = json.loads(record.read_text()).get(SWEEP_METRIC)
        if score is not None:
            scores[record.parent] = score
    return scores


def check_networks_exist(*, hypernet: Path | None = None, encoder: str | None = None, base: str | None = None) -> None:
    """Checks that networks are there before anything large is read. None is not checked.

    Args:
        base: Path of the base that they are used with, where the hypernetwork was not chosen for it.

    Raises:
        ValueError: A file is missing, timm does not know the encoder, or the shipped hypernetwork would be used with
            another base than the shipped one.
    """
    if encoder is not None:
        if _is_folder_name(encoder):
            check_network_folder(encoder, kind="a face encoder")
        else:
            check_timm_model(encoder)
    if hypernet is not None:
        check_hypernet(hypernet)
    is_shipped = hypernet == resolve_shipped(SHIPPED_HYPERNET)
    if is_shipped and base is not None and Path(base).resolve() != resolve_shipped(SHIPPED_BASE).resolve():
        raise ValueError(
            f"the shipped hypernetwork is for the shipped base, not for {base}: expected hypernet=... of that base, "
            "or, to personalize without a hypernetwork, method=no_hyper"
        )


def load_hypernet(
    path: Path, *, encoder: str | None, base_name: str, base_digest: str, check: str = "digest"
) -> HyperNet:
    """Loads a hypernetwork from a checkpoint or a folder, in eval mode.

    Args:
        encoder: Name of the face encoder it was trained with, needed if its file does not include that.
        base_name: Name of the base that its predictions will be bound to.
        base_digest: Digest of that base.
        check: `digest` refuses a network trained on another base; `shapes` accepts it with a warning.

    Raises:
        ValueError: It was trained on another base, or as `HyperNet.from_folder`.
    """
    hypernet = _read(path, load_face_encoder(encoder) if encoder else None).eval()
    _check_base(hypernet, path, base_name=base_name, base_digest=base_digest, check=check, setting="hypernet")
    return hypernet


def compute_hypernet_digest(path: Path) -> str:
    """Sixteen hex digits of the SHA-256 of a checkpoint, or of the weights in a hypernetwork's folder."""
    weights = path / WEIGHTS if path.is_dir() else path
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def modification_time(path: Path) -> str:
    """When a hypernetwork was written, in ns: the time of its checkpoint, or the later one of its folder's two files.

    Other files in the folder do not count, such as the gate's, because no run depends on them.
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
    """Prepares a new hypernetwork for training: loads another one's weights, or standardizes the embeddings.

    Args:
        init_from: A run's folder, a checkpoint, or a hypernetwork's folder. None starts anew.
        references: Photos of training identities, for the standardization.
        device: Where the encoder embeds them.
        check: As in `load_hypernet`.

    Raises:
        ValueError: The other network is missing, or differs in base, layout, encoder or shape.
    """
    if init_from is None:
        standardize_embeddings(hypernet, references, device=device)
        return
    path = resolve_checkpoint(init_from)
    other = _read(path, hypernet.encoder)
    # Both share the encoder, whose mode and gradients the other network has just set to its own.
    hypernet.encoder.requires_grad_(not hypernet.freeze_encoder)
    hypernet.train(hypernet.training)
    _check_base(
        other,
        path,
        base_name="that of this run",
        base_digest=hypernet.base_digest,
        check=check,
        setting="init_from",
    )
    hypernet.decoder_layout.check_digest(other.decoder_layout.digest, name=str(path))
    shape = {"decoder": hypernet.decoder.config, "bases": hypernet.bases is not None}
    other_shape = {"decoder": other.decoder.config, "bases": other.bases is not None}
    if shape != other_shape:
        raise ValueError(f"{path} is a hypernetwork of {other_shape}, expected one of {shape} to begin from")
    if hypernet.freeze_encoder and not other.freeze_encoder:
        raise ValueError(f"{path} has an encoder that was trained with it: expected hypernet.freeze_encoder=false")
    state_dict = other.trainable_state_dict() if hypernet.freeze_encoder else other.state_dict()
    hypernet.load_trainable_state_dict(state_dict)


@torch.no_grad()
def standardize_embeddings(
    hypernet: HyperNet, references: Iterable[Float[Tensor, "3 h w"]], *, device: torch.device
) -> None:
    """Fits the standardization of the embeddings to the first references of the training identities.

    Args:
        device: Where the encoder works. On a CPU a ViT-H would take many minutes.
    """
    photos = torch.stack(list(islice(references, NUM_REFERENCES_FOR_STANDARDIZATION)))
    encoder = hypernet.encoder.to(device)
    embeddings = torch.cat([encoder(batch.to(device)).embedding for batch in photos.split(32)])
    hypernet.fit_standardization(embeddings.to(hypernet.embedding_mean.device))


@torch.no_grad()
def predict(
    hypernet: HyperNet, photos: Float[Tensor, "n 3 h w"], *, iterations: int | None = None
) -> Float[Tensor, "n p"]:
    """Predicts theta without gradients, on the hypernetwork's device. The result is on the CPU."""
    return hypernet(photos.to(hypernet.initial_theta.device), iterations=iterations).cpu()


def _is_folder_name(encoder: str) -> bool:
    return "/" in encoder or Path(encoder).is_dir()


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _read(path: Path, encoder: FaceEncoder | None) -> HyperNet:
    if path.suffix == ".ckpt":
        return HyperNet.from_checkpoint(path, encoder=encoder)
    return HyperNet.from_folder(path, encoder=encoder)


def _check_base(hypernet: HyperNet, path: Path, *, base_name: str, base_digest: str, check: str, setting: str) -> None:
    """Refuses a hypernetwork that was trained on another base, or warns where only shapes are checked."""
    if hypernet.base_digest == base_digest:
        return
    mismatch = f"{path} was trained on the base {hypernet.base_digest}, not on {base_name} ({base_digest})"
    if check == "digest":
        raise ValueError(
            f"{mismatch}: its weights would mean nothing there; name another one with {setting}=..., or take it to a "
            "finetune of its base with base.check=shapes"
        )
    print(f"warning: {mismatch}")
