"""Layout: theta <-> the factors of named slots; their order, size and digest."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.names import personalized_layers

# Raised when the meaning of theta changes: the order inside a slot, the way bases are drawn, the canonical names.
LAYOUT_VERSION = 1

Factors = dict[str, tuple[Tensor, Tensor]]

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

    def aux(self, *, seed: int) -> tuple[Float[Tensor, "a in_"], Float[Tensor, "out b"]]:
        """The frozen bases: down_aux with orthonormal rows, up_aux with orthonormal columns, float32 on the CPU.

        Q of a Gaussian matrix, its signs fixed so that it is unique: uniformly drawn orthonormal vectors, the same on
        every machine up to the last bit.
        Paper: "random orthogonal". Here: orthonormal, because the distance of two residuals then is the distance of
        the small products up · down, and one learning rate fits layers of every width.
        """
        down = _orthonormal(_stream(seed, self.name, _DOWN_AUX).standard_normal((self.in_features, self.a)))
        up = _orthonormal(_stream(seed, self.name, _UP_AUX).standard_normal((self.out_features, self.b)))
        return down.mT.contiguous(), up


@dataclass(frozen=True)
class Layout:
    """The one explicit order in which a vector theta holds the factors of all slots.

        theta = [down (r, a), up (b, r)] of slot 0, then of slot 1, ...        p = sum of r·(a + b)

    Args:
        slots: In the order of theta.
        rank: r of every residual.
        seed: Of the bases and of the shared start.

    Raises:
        ValueError: No slots, two slots of one name, a rank below 1 or a negative seed.

    >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2), Slot("unet.to_k", 8, 8, a=4, b=2)))
    >>> layout.size, layout.relax(layout.initial(), 3)[0].size
    (12, 36)
    """

    slots: tuple[Slot, ...]
    rank: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.slots:
            raise ValueError("a layout needs at least one slot, given none")
        names = [slot.name for slot in self.slots]
        if len(set(names)) < len(names):
            raise ValueError(f"slot names must differ, given {len(names)} slots with {len(set(names))} names")
        if self.rank < 1:
            raise ValueError(f"rank = {self.rank}, expected 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}, expected 0 or more")

    @classmethod
    def of(
        cls,
        *,
        unet: nn.Module | None = None,
        text_encoder: nn.Module | None = None,
        a: int = 100,
        b: int = 50,
        rank: int = 1,
        seed: int = 0,
    ) -> "Layout":
        """The layout of a model: q, k, v, out of every attention, and the GEGLU projections of the UNet.

        Looks at names and shapes only, so models on the meta device do. Narrow layers cap a at in_features and b at
        out_features.

        Raises:
            ValueError: There is no such layer.
        """
        layers = personalized_layers(unet=unet, text_encoder=text_encoder)
        if not layers:
            raise ValueError(
                "no attention or GEGLU projection found in the UNet and text encoder given; expected diffusers' "
                "UNet2DConditionModel and transformers' CLIPTextModel"
            )
        return cls(
            tuple(
                Slot(name, x.in_features, x.out_features, a=min(a, x.in_features), b=min(b, x.out_features))
                for name, x in layers.items()
            ),
            rank=rank,
            seed=seed,
        )

    @cached_property
    def size(self) -> int:
        """p, the length of theta."""
        return sum(self._sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        return [self.rank * width for slot in self.slots for width in (slot.a, slot.b)]

    def lora_size(self, rank: int = 1) -> int:
        """How many numbers a free LoRA of this rank has over the same layers."""
        return sum(rank * (slot.in_features + slot.out_features) for slot in self.slots)

    @cached_property
    def digest(self) -> str:
        """Sixty-four hex digits over everything that theta depends on: names, shapes, a, b, rank, seed, bases.

        The bases enter by their first Gaussian draws, rounded to 6 decimals, and not by their own values: LAPACK's
        last bits differ from machine to machine, and rounding such a value now and then falls to either side.
        """
        content = self.to_dict()
        content["version"] = LAYOUT_VERSION
        content["draws"] = [
            [
                f"{x:.6f}"
                for side in (_DOWN_AUX, _UP_AUX)
                for x in _stream(self.seed, slot.name, side).standard_normal(4)
            ]
            for slot in self.slots
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def check(self, theta: Float[Tensor, "n p"], *, finite: bool = False) -> None:
        """Raises ValueError if theta is not (n, p) in this layout or, on request, not finite."""
        if theta.ndim != 2 or theta.shape[1] != self.size:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}, expected (n, {self.size}) for {len(self.slots)} slots of rank "
                f"{self.rank}"
            )
        if finite and (bad := theta.numel() - int(theta.isfinite().sum())):
            raise ValueError(f"theta has {bad} values of {theta.numel()} that are not finite, expected 0")

    def check_digest(self, digest: str, *, of: str) -> None:
        """Raises ValueError naming both digests if `digest`, stored beside the thing called `of`, is not this one."""
        if digest != self.digest:
            raise ValueError(f"{of} belongs to layout {digest}, expected {self.digest}")

    def unpack(self, theta: Float[Tensor, "n p"]) -> Factors:
        """Splits theta into {slot name: (down (n, r, a), up (n, b, r))}: views, through which gradients flow."""
        self.check(theta)
        # One split instead of a slice per factor: the backward of a slice fills a whole (n, p) with zeros.
        pieces = iter(theta.split(self._sizes, dim=1))
        return {
            slot.name: (next(pieces).unflatten(1, (self.rank, slot.a)), next(pieces).unflatten(1, (slot.b, self.rank)))
            for slot in self.slots
        }

    def pack(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Float[Tensor, "n p"]:
        """Joins the factors of all slots to theta; the inverse of `unpack`.

        Raises:
            ValueError: Factors are missing, superfluous, or of another shape.
        """
        names = [slot.name for slot in self.slots]
        if set(names) != set(factors):
            odd = sorted(set(names) ^ set(factors))
            raise ValueError(f"factors of {len(factors)} slots given, expected {len(names)}; they differ in {odd[0]}")
        theta = torch.cat([factor.flatten(1) for name in names for factor in factors[name]], dim=1)
        self.check(theta)
        return theta

    def initial(self) -> Float[Tensor, "1 p"]:
        """The start that everyone shares: rows of `down` of length one, `up` zero, hence no residual.

        Not all zero, because down = up = 0 is a saddle: the diffusion loss has no gradient there.
        """
        return self.pack(
            {slot.name: (self._start(slot)[None], torch.zeros(1, slot.b, self.rank)) for slot in self.slots}
        )

    def relax(self, theta: Float[Tensor, "n p"], rank: int) -> tuple["Layout", Float[Tensor, "n q"]]:
        """The same residuals in a layout of higher rank: fresh rows of `down` beside zero columns of `up`.

        Paper: the prediction is added to the base weights and a residual of higher rank trained on top. Here: it
        keeps its place and gets company, because a base with one person's weights inside could serve nobody else, and
        an exact relaxation needs no singular value decomposition.

        Raises:
            ValueError: The rank is below that of this layout.
        """
        if rank < self.rank:
            raise ValueError(f"cannot relax rank {self.rank} to {rank}; expected {self.rank} or more")
        layout = Layout(self.slots, rank=rank, seed=self.seed)
        factors = {}
        for slot, (down, up) in zip(self.slots, self.unpack(theta).values(), strict=True):
            fresh = layout._start(slot)[self.rank :].to(theta).expand(len(theta), -1, -1)
            zeros = up.new_zeros(len(theta), slot.b, rank - self.rank)
            factors[slot.name] = torch.cat([down, fresh], dim=1), torch.cat([up, zeros], dim=2)
        return layout, layout.pack(factors)

    def _start(self, slot: Slot) -> Float[Tensor, "r a"]:
        rows = torch.from_numpy(_stream(self.seed, slot.name, _START).standard_normal((self.rank, slot.a)))
        return (rows / rows.norm(dim=1, keepdim=True)).float()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` is the inverse."""
        slots = [list(asdict(slot).values()) for slot in self.slots]
        return {"rank": self.rank, "seed": self.seed, "slots": slots}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Layout":
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: Something is missing or of another kind.
        """
        try:
            slots = tuple(Slot(str(name), *(int(number) for number in numbers)) for name, *numbers in content["slots"])
            return cls(slots, rank=int(content["rank"]), seed=int(content["seed"]))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"not a layout: {error}; expected rank, seed and slots of [name, in_features, out_features, a, b]"
            ) from error


def _stream(seed: int, name: str, purpose: int) -> np.random.RandomState:
    # A private generator for each slot, so that a basis depends on neither the global state nor the other slots.
    # RandomState, because numpy promises never to change its normals (NEP 19); those of Generator may change.
    return np.random.RandomState(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode()), purpose])))


def _orthonormal(gaussian: np.ndarray) -> Float[Tensor, "rows columns"]:
    q, r = np.linalg.qr(gaussian)
    return torch.from_numpy(q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).float()
