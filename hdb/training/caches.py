"""Caches beside shards: what the frozen autoencoder and the frozen encoder make of pictures that never change."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from hdb.diffusion.base import BaseOptions, load_base
from hdb.diffusion.folder import find_pipeline
from hdb.faces.caches import EMBEDDING, FEATURES, LATENTS, TOKENS, cache_path
from hdb.faces.picture import open_picture, square
from hdb.faces.prepared import read_about
from hdb.faces.shards import ShardReader
from hdb.files import write_safetensors
from hdb.hypernet.trained import check_networks_exist, load_face_encoder
from hdb.limits import number_field
from hdb.training.device import accelerator_field, select_device

Pictures = Float[Tensor, "n 3 h w"]


@dataclass
class CacheOptions:
    """What to keep beside shards for training: null keeps nothing.

    `base` is the folder or hub id of a base, of whose autoencoder the latents are; `encoder` a face encoder by name or
    folder, of which the embedding and the tokens are. `batch_size` pictures go through them at once.
    """

    base: str | None = None
    revision: str | None = None
    encoder: str | None = None
    batch_size: int = number_field(8, ge=1)
    accelerator: str = accelerator_field()

    def refuse_missing(self) -> None:
        """Raises ValueError if base or encoder are not there: before thousands of photos are cropped for them."""
        if self.base is not None:
            find_pipeline(self.base, revision=self.revision, weights=False)
        check_networks_exist(encoder=self.encoder)


@torch.no_grad()
def write_caches(shards: Sequence[Path], options: CacheOptions, *, resolution: int) -> None:
    """Writes the caches of training shards, as far as they are not there, in half precision.

    Nothing is augmented in this project: a picture has one latent and one set of features, whatever its role.

    Args:
        resolution: side of the pictures in the shards.
    """
    device = select_device(options.accelerator)
    if options.base is not None:
        base = load_base(BaseOptions(path=options.base, revision=options.revision), device=device)
        _write(shards, LATENTS, base.autoencoder_digest, lambda p: {"": base.encode_images(p)}, options, resolution)
    if options.encoder is not None:
        encoder = load_face_encoder(options.encoder).eval().to(device)

        def features(pictures: Pictures) -> dict[str, Tensor]:
            seen = encoder(pictures.to(device))
            return {EMBEDDING: seen.embedding, TOKENS: seen.tokens}

        _write(shards, FEATURES, encoder.digest, features, options, resolution)


def _write(
    shards: Sequence[Path],
    kind: str,
    digest: str,
    network: Callable[[Pictures], dict[str, Tensor]],
    options: CacheOptions,
    resolution: int,
) -> None:
    for shard in tqdm(shards, desc=kind):
        path, about = cache_path(shard, kind, digest), {"resolution": str(resolution), "pictures": _digest_of(shard)}
        if _is_of(path, about):
            continue
        tensors: dict[str, Tensor] = {}
        pictures = _pictures(shard, resolution)
        while some := list(islice(pictures, options.batch_size)):
            for suffix, values in network(torch.stack([pixels for _, pixels in some])).items():
                halves = values.half().cpu()
                tensors |= {f"{name}{suffix}": half.clone() for (name, _), half in zip(some, halves, strict=True)}
        write_safetensors(path, tensors, about)


def _pictures(shard: Path, resolution: int) -> Iterator[tuple[str, Float[Tensor, "3 h w"]]]:
    """The name and the pixels of every picture, as training reads them."""
    for person in ShardReader().people([str(shard)]):
        for picture in person.pictures:
            yield picture.file, square(open_picture(picture), resolution=resolution)


def _digest_of(shard: Path) -> str:
    """Of the pictures that a shard says it holds."""
    return sha256(repr(read_about(shard)["crops"]).encode()).hexdigest()[:16]


def _is_of(path: Path, about: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() == about
    except SafetensorError:  # cut off, for example: made again
        return False
