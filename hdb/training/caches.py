"""Writes caches beside shards: the latents and face features of their pictures."""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from hdb.diffusion.base import load_base
from hdb.diffusion.folder import find_pipeline
from hdb.diffusion.options import BaseOptions
from hdb.faces.caches import EMBEDDING, FEATURES, LATENTS, TOKENS, cache_path
from hdb.faces.picture import center_square, open_picture
from hdb.faces.shard_writer import read_about
from hdb.faces.shards import ShardReader
from hdb.files import write_safetensors
from hdb.hypernet.trained import check_networks_exist, load_face_encoder
from hdb.training.device import select_device
from hdb.training.options import CacheOptions

Pictures = Float[Tensor, "n 3 h w"]


def check_cache_networks(options: CacheOptions) -> None:
    """Raises ValueError if base or encoder do not exist. Called before thousands of photos are cropped."""
    if options.base is not None:
        find_pipeline(options.base, revision=options.revision, weights=False)
    check_networks_exist(encoder=options.encoder)


@torch.no_grad()
def write_caches(shards: Sequence[Path], options: CacheOptions, *, resolution: int) -> None:
    """Writes the caches of training shards that are missing or outdated, in half precision.

    Pictures are not augmented, so each has one latent and one set of features, as reference and as target.

    Args:
        resolution: Side of the pictures in the shards.
    """
    device = select_device(options.accelerator)
    if options.base is not None:
        base = load_base(BaseOptions(path=options.base, revision=options.revision), device=device)

        def encode_latents(pictures: Pictures) -> dict[str, Tensor]:
            return {"": base.encode_images(pictures)}

        _write(shards, LATENTS, base.autoencoder_digest, encode_latents, options.batch_size, resolution)
    if options.encoder is not None:
        encoder = load_face_encoder(options.encoder).eval().to(device)

        def encode_features(pictures: Pictures) -> dict[str, Tensor]:
            features = encoder(pictures.to(device))
            return {EMBEDDING: features.embedding, TOKENS: features.tokens}

        _write(shards, FEATURES, encoder.digest, encode_features, options.batch_size, resolution)


def _write(
    shards: Sequence[Path],
    kind: str,
    digest: str,
    encode: Callable[[Pictures], dict[str, Tensor]],
    batch_size: int,
    resolution: int,
) -> None:
    """Writes one kind of cache.

    Args:
        digest: Of the network behind `encode`.
        encode: Returns tensors of the pictures by the suffix of their names in the file.
    """
    for shard in tqdm(shards, desc=kind):
        path = cache_path(shard, kind, digest)
        metadata = {"resolution": str(resolution), "pictures": _pictures_digest(shard)}
        if _is_up_to_date(path, metadata):
            continue
        tensors: dict[str, Tensor] = {}
        pictures = _read_pictures(shard, resolution)
        while batch := list(islice(pictures, batch_size)):
            names = [name for name, _ in batch]
            encoded = encode(torch.stack([pixels for _, pixels in batch]))
            for suffix, values in encoded.items():
                for name, value in zip(names, values.half().cpu(), strict=True):
                    tensors[f"{name}{suffix}"] = value.clone()
        write_safetensors(path, tensors, metadata)


def _read_pictures(shard: Path, resolution: int) -> Iterator[tuple[str, Float[Tensor, "3 h w"]]]:
    """Name and pixels of every picture, as training reads them."""
    for person in ShardReader().read_people([str(shard)]):
        for picture in person.pictures:
            yield picture.file, center_square(open_picture(picture), resolution=resolution)


def _pictures_digest(shard: Path) -> str:
    """Sixteen hex digits of the list of pictures that a shard holds."""
    return sha256(repr(read_about(shard)["crops"]).encode()).hexdigest()[:16]


def _is_up_to_date(path: Path, metadata: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() == metadata
    except SafetensorError:  # damaged: it is written again
        return False
