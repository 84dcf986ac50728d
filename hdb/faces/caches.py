"""Reads the files beside a shard that hold what frozen networks make of its pictures: latents and face features."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

LATENTS, FEATURES = "latents", "features"  # the two kinds of files
EMBEDDING, TOKENS = ":embedding", ":tokens"  # suffixes of a picture's two tensors among the features


class CacheKeys(NamedTuple):
    """Which caches to read: digests of the autoencoder and the encoder, and the side of the pictures in pixels."""

    autoencoder: str
    encoder: str
    resolution: int


class CachedTensors(NamedTuple):
    """What training needs of a sample instead of its pictures; the identity loss takes `target_embedding`."""

    latents: Float[Tensor, "*n c h w"]
    target_embedding: Float[Tensor, "*n e"]
    embedding: Float[Tensor, "*n e"]
    tokens: Float[Tensor, "*n t d"]


class ShardCache:
    """The two cache files beside one shard, written by `experiments.prepare` in half precision and read in single.

    Raises:
        ValueError: a file is missing, damaged, or of pictures of another size.
    """

    def __init__(self, shard: str, keys: CacheKeys) -> None:
        self.shard = shard
        self.latents = _open_cache(shard, LATENTS, keys.autoencoder, keys.resolution)
        self.features = _open_cache(shard, FEATURES, keys.encoder, keys.resolution)

    def load(self, *, reference: str, target: str) -> CachedTensors:
        """The tensors of a sample, by the names of its pictures in the shard."""
        try:
            return CachedTensors(
                latents=self.latents.get_tensor(target).float(),
                target_embedding=self.features.get_tensor(target + EMBEDDING).float(),
                embedding=self.features.get_tensor(reference + EMBEDDING).float(),
                tokens=self.features.get_tensor(reference + TOKENS).float(),
            )
        except SafetensorError as error:
            raise ValueError(f"the caches of {self.shard} lack a picture ({error}): prepare them again") from None


def _open_cache(shard: str, kind: str, digest: str, resolution: int) -> safe_open:
    path = cache_path(shard, kind, digest)
    if not path.is_file():
        option = {LATENTS: "cache.base", FEATURES: "cache.encoder"}[kind]
        raise ValueError(f"{shard} has no {path.name} beside it: run prepare with {option}=..., or cached=false")
    try:
        file = safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable cache: {error}") from None
    cached_resolution = (file.metadata() or {}).get("resolution")
    if cached_resolution != str(resolution):
        raise ValueError(f"{path} is of pictures of {cached_resolution} px, but faces.resolution is {resolution}")
    return file


def cache_path(shard: str | Path, kind: str, digest: str) -> Path:
    """The path of a cache: train-00000.tar has train-00000.latents-<digest>.safetensors beside it."""
    return Path(shard).with_suffix(f".{kind}-{digest}.safetensors")


def stack_cached(samples: list[CachedTensors | None]) -> CachedTensors | None:
    """Stacks the tensors of a batch; None if a sample has none."""
    if not samples or any(sample is None for sample in samples):
        return None
    return CachedTensors(*map(torch.stack, zip(*samples, strict=True)))
