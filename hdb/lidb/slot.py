"""Slot: one personalized linear layer, its frozen bases, and the start that everyone shares."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_DOWN_AUX, _UP_AUX, _START = range(3)


@dataclass(frozen=True)
class Slot:
    """One personalized linear layer: its canonical name, its shape and the widths of its two bases.

    Raises:
        ValueError: a is not within 1 and in_features, or b not within 1 and out_features: that many orthonormal
            vectors do not exist.

    >>> slot = Slot("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 320, 640, a=100, b=50)
    >>> slot.a + slot.b
    150
    """

    name: str
    in_features: int
    out_features: int
    a: int
    b: int

    def __post_init__(self) -> None:
        for width, value, limit in (("a", self.a, self.in_features), ("b", self.b, self.out_features)):
            if not 1 <= value <= limit:
                raise ValueError(f"slot {self.name}: {width} = {value}, expected 1 to {limit}")

    @property
    def as_lora(self) -> "Slot":
        """The same layer with a and b as wide as itself, as factors without bases are."""
        return replace(self, a=self.in_features, b=self.out_features)

    def aux_bases(self, *, seed: int) -> tuple[Float[Tensor, "a in_"], Float[Tensor, "out b"]]:
        """The frozen bases: down_aux with orthonormal rows, up_aux with orthonormal columns, float32 on the CPU.

        Q of a Gaussian matrix, its signs fixed so that it is unique: uniformly drawn orthonormal vectors, the same on
        every machine up to the last bit.
        Paper: "random orthogonal". Here: orthonormal, because the distance of two residuals then is the distance of
        the small products up · down, and one learning rate fits layers of every width.
        """
        down = _orthonormal(self._stream(seed, _DOWN_AUX).standard_normal((self.in_features, self.a)))
        up = _orthonormal(self._stream(seed, _UP_AUX).standard_normal((self.out_features, self.b)))
        return down.mT.contiguous(), up

    def meta_aux_bases(self) -> tuple[Float[Tensor, "a in_"], Float[Tensor, "out b"]]:
        """The bases on the meta device, where there is nothing to draw: for counting."""
        return torch.empty(self.a, self.in_features, device="meta"), torch.empty(
            self.out_features, self.b, device="meta"
        )

    def start(self, rank: int, *, seed: int) -> Float[Tensor, "r a"]:
        """Rows of `down` of length one. A lower rank gets the first of them."""
        rows = torch.from_numpy(self._stream(seed, _START).standard_normal((rank, self.a)))
        return (rows / rows.norm(dim=1, keepdim=True)).float()

    def fingerprint(self, *, seed: int) -> list[str]:
        """The first Gaussian draws behind the bases: what tells that another machine has the same."""
        return [f"{x:.6f}" for side in (_DOWN_AUX, _UP_AUX) for x in self._stream(seed, side).standard_normal(4)]

    def _stream(self, seed: int, purpose: int) -> np.random.RandomState:
        # A private generator for each slot, so that a basis depends on neither the global state nor the other slots.
        # RandomState, because numpy promises never to change its normals (NEP 19); those of Generator may change.
        key = [seed, zlib.crc32(self.name.encode()), purpose]
        return np.random.RandomState(np.random.PCG64(np.random.SeedSequence(key)))


def _orthonormal(gaussian: np.ndarray) -> Float[Tensor, "rows columns"]:
    q, r = np.linalg.qr(gaussian)
    return torch.from_numpy(q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).float()
