"""What frozen networks made of the pictures of a shard, kept in files beside it: latents and face features."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

LATENTS, FEATURES = "latents", "features"  # what the files are called by
EMBEDDING, TOKENS = ":embedding", ":tokens"  # of a picture's two tensors in the second


class CacheKeys(NamedTuple):
    """Whose caches to read: digests of the autoencoder and of the encoder, and the side of the pictures in pixels."""

    autoencoder: str
    encoder: str
    resolution: int


class Cached(NamedTuple):
    """What there is to know of a sample without its pictures; the target's embedding is for the identity loss."""

    latents: Float[Tensor, "*n c h w"]
    target_embedding: Float[Tensor, "*n e"]
    embedding: Float[Tensor, "*n e"]
    tokens: Float[Tensor, "*n t d"]


class ShardCache:
    """The two files beside one shard, written by `experiments.prepare`; half precision in the files, single here.

    Raises:
        ValueError: one of them is not there, of pictures of another size, or damaged.
    """

    def __init__(self, shard: str, keys: CacheKeys) -> None:
        self.shard, self.keys = shard, keys
        self.latents = self._opened(LATENTS, keys.autoencoder)
        self.features = self._opened(FEATURES, keys.encoder)

    def of(self, *, reference: str, target: str) -> Cached:
        """Of a sample, by the names of its pictures in the shard."""
        try:
            return Cached(
                self.latents.get_tensor(target).float(),
                *(self.features.get_tensor(name).float() for name in (target + EMBEDDING, reference + EMBEDDING)),
                self.features.get_tensor(reference + TOKENS).float(),
            )
        except SafetensorError as error:
            raise ValueError(f"the caches of {self.shard} lack a picture ({error}): prepare them again") from None

    def _opened(self, kind: str, digest: str) -> safe_open:
        path = cache_path(self.shard, kind, digest)
        if not path.is_file():
            what = {LATENTS: "cache.base", FEATURES: "cache.encoder"}[kind]
            raise ValueError(f"{self.shard} has no {path.name} beside it: run prepare with {what}=..., or cached=false")
        try:
            file = safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable cache: {error}") from None
        made = (file.metadata() or {}).get("resolution")
        if made != str(self.keys.resolution):
            raise ValueError(f"{path} is of pictures of {made} px, but faces.resolution is {self.keys.resolution}")
        return file


def cache_path(shard: str | Path, kind: str, digest: str) -> Path:
    """Where a cache is: train-00000.tar has train-00000.latents-<digest>.safetensors beside it."""
    return Path(shard).with_suffix(f".{kind}-{digest}.safetensors")


def stacked(cached: list[Cached | None]) -> Cached | None:
    """Of a batch; None where a sample has none."""
    known = [of for of in cached if of is not None]
    return Cached(*map(torch.stack, zip(*known, strict=True))) if cached and len(known) == len(cached) else None
