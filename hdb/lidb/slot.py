"""Slot: one personalized linear layer, its frozen bases and its initial factors."""

import zlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import ThreadpoolController
from torch import Tensor

# Each purpose has a random stream of its own.
_DOWN_AUX_STREAM = 0
_UP_AUX_STREAM = 1
_INITIAL_DOWN_STREAM = 2


@dataclass(frozen=True)
class Slot:
    """One personalized linear layer: its canonical name, its shape and the widths of its two bases.

    Args:
        name: The layer's key in published diffusers LoRA files.
        a: Number of basis vectors of the input.
        b: Number of basis vectors of the output.

    Raises:
        ValueError: a is not within 1 and in_features, or b not within 1 and out_features. There are no more orthonormal
            vectors than that.

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
        if not 1 <= self.a <= self.in_features:
            raise ValueError(f"slot {self.name}: a = {self.a}, expected 1 to {self.in_features}")
        if not 1 <= self.b <= self.out_features:
            raise ValueError(f"slot {self.name}: b = {self.b}, expected 1 to {self.out_features}")

    @property
    def as_lora(self) -> "Slot":
        """The same layer without bases, as in an ordinary LoRA: a = in_features, b = out_features."""
        return replace(self, a=self.in_features, b=self.out_features)

    def aux_bases(self, *, seed: int) -> tuple[Float[Tensor, "a in_"], Float[Tensor, "out b"]]:
        """The frozen bases down_aux, with orthonormal rows, and up_aux, with orthonormal columns; float32 on the CPU.

        Each is Q of the QR decomposition of a Gaussian matrix, with signs fixed so that it is unique. This draws
        orthonormal vectors uniformly, and the same ones on every machine up to the last bit.

        Paper: "random orthogonal". Here: orthonormal, so that the distance between two residuals equals the distance
        between the small products up · down, and one learning rate suits layers of every width.
        """
        down_noise = self._generator(seed, _DOWN_AUX_STREAM).standard_normal((self.in_features, self.a))
        up_noise = self._generator(seed, _UP_AUX_STREAM).standard_normal((self.out_features, self.b))
        down_aux = np.ascontiguousarray(_orthonormalize(down_noise).T)
        return torch.from_numpy(down_aux), torch.from_numpy(_orthonormalize(up_noise))

    def meta_aux_bases(self) -> tuple[Float[Tensor, "a in_"], Float[Tensor, "out b"]]:
        """The bases as meta tensors, which have shapes and no values, for counting parameters and operations."""
        down_aux = torch.empty(self.a, self.in_features, device="meta")
        up_aux = torch.empty(self.out_features, self.b, device="meta")
        return down_aux, up_aux

    def initial_down(self, rank: int, *, seed: int) -> Float[Tensor, "r a"]:
        """Random initial rows of `down`, of length one. A lower rank gets the first of the same rows."""
        rows = torch.from_numpy(self._generator(seed, _INITIAL_DOWN_STREAM).standard_normal((rank, self.a)))
        return (rows / rows.norm(dim=1, keepdim=True)).float()

    def fingerprint(self, *, seed: int) -> list[str]:
        """The first Gaussian draws of both bases, rounded: enough to detect a generator that draws differently."""
        return [
            f"{value:.6f}"
            for stream in (_DOWN_AUX_STREAM, _UP_AUX_STREAM)
            for value in self._generator(seed, stream).standard_normal(4)
        ]

    def _generator(self, seed: int, stream: int) -> np.random.RandomState:
        # A generator for each slot, so that its bases depend on neither the global state nor the other slots.
        # RandomState, because numpy guarantees that its normals never change (NEP 19). Those of Generator may.
        key = [seed, zlib.crc32(self.name.encode()), stream]
        return np.random.RandomState(np.random.PCG64(np.random.SeedSequence(key)))


@cache
def _numpy_threads() -> ThreadpoolController:
    return ThreadpoolController()


def _orthonormalize(gaussian: np.ndarray) -> Float[np.ndarray, "rows columns"]:
    # In one thread, with the same bits: where cores are busy the threads of OpenBLAS wait for each other, for 5 s at
    # each of the 192 slots of Stable Diffusion 1.5, which take 1.3 s in all. Nor is torch used, whose threads do too.
    with _numpy_threads().limit(limits=1, user_api="blas"):
        q, r = np.linalg.qr(gaussian)
    return (q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).astype(np.float32)
