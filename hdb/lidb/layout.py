"""Layout: theta <-> the factors of named slots; their order, size and digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.names import find_target_layers
from hdb.lidb.options import LiDBOptions
from hdb.lidb.slot import Slot

# Raised when the meaning of theta changes: the order inside a slot, the way bases are drawn, the canonical names.
LAYOUT_VERSION = 1

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Layout:
    """The one explicit order in which a vector theta holds the factors of all slots.

        theta = [down (r, a), up (b, r)] of slot 0, then of slot 1, ...        p = sum of r·(a + b)

    A free layout has no bases, or the identity as each of them: a = in_features, b = out_features, and the factors are
    those of an ordinary LoRA. It holds any residual of its rank, in about thirteen times the numbers.

    Args:
        slots: In the order of theta.
        rank: r of every residual.
        seed: Of the bases and of the shared start.
        free: Without bases.

    Raises:
        ValueError: No slots, two slots of one name, a rank below 1, a negative seed, or narrow slots in a free layout.

    >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2), Slot("unet.to_k", 8, 8, a=4, b=2)))
    >>> layout.size, layout.as_lora.size
    (12, 32)
    """

    slots: tuple[Slot, ...]
    rank: int = 1
    seed: int = 0
    free: bool = False

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
        narrow = next((slot for slot in self.slots if self.free and slot != slot.as_lora), None)
        if narrow:
            raise ValueError(
                f"slot {narrow.name} of a free layout has a = {narrow.a} and b = {narrow.b}, "
                f"expected {narrow.in_features} and {narrow.out_features}"
            )

    @classmethod
    def from_models(
        cls,
        *,
        unet: nn.Module | None = None,
        text_encoder: nn.Module | None = None,
        a: int = LiDBOptions.a,
        b: int = LiDBOptions.b,
        rank: int = LiDBOptions.rank,
        seed: int = LiDBOptions.seed,
    ) -> "Layout":
        """The layout of a model: q, k, v, out of every attention, and the GEGLU projections of the UNet.

        Looks at names and shapes only, so models on the meta device do. Narrow layers cap a at in_features and b at
        out_features.

        Raises:
            ValueError: There is no such layer.
        """
        layers = find_target_layers(unet=unet, text_encoder=text_encoder)
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
        content["draws"] = [slot.fingerprint(seed=self.seed) for slot in self.slots]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def check_theta(self, theta: Float[Tensor, "n p"], *, finite: bool = False) -> None:
        """Raises ValueError if theta is not (n, p) in this layout or, on request, not finite."""
        if theta.ndim != 2 or theta.shape[1] != self.size:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}, expected (n, {self.size}) for {len(self.slots)} slots of rank "
                f"{self.rank}"
            )
        if finite and (bad := theta.numel() - int(theta.isfinite().sum())):
            raise ValueError(f"theta has {bad} values of {theta.numel()} that are not finite, expected 0")

    def check_digest(self, digest: str, *, name: str) -> None:
        """Raises ValueError naming both digests if `digest`, stored beside the thing called `name`, is not this one."""
        if digest != self.digest:
            raise ValueError(f"{name} belongs to layout {digest}, expected {self.digest}")

    def unpack(self, theta: Float[Tensor, "n p"]) -> Factors:
        """Splits theta into {slot name: (down (n, r, a), up (n, b, r))}: views, through which gradients flow."""
        self.check_theta(theta)
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
        self.check_theta(theta)
        return theta

    def initial_theta(self) -> Float[Tensor, "1 p"]:
        """The start that everyone shares: rows of `down` of length one, `up` zero, hence no residual.

        Not all zero, because down = up = 0 is a saddle: the diffusion loss has no gradient there.
        """
        return self.pack(
            {
                slot.name: (slot.start(self.rank, seed=self.seed)[None], torch.zeros(1, slot.b, self.rank))
                for slot in self.slots
            }
        )

    @cached_property
    def as_lora(self) -> "Layout":
        """The free layout of the same layers and rank."""
        return replace(self, slots=tuple(slot.as_lora for slot in self.slots), free=True)

    def fold(self, theta: Float[Tensor, "n p"], *, aux: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> Factors:
        """The factors of an ordinary LoRA with the same residuals, in float32, through which gradients flow.

        down · down_aux (n, r, in)        up_aux · up (n, out, r)

        Args:
            aux: (down_aux, up_aux) of each slot, instead of the frozen bases.
        """
        factors = self.unpack(theta.float())
        for slot in self.slots if not self.free else ():
            bases = slot.aux_bases(seed=self.seed) if aux is None else aux[slot.name]
            down_aux, up_aux = (basis.to(theta.device) for basis in bases)
            down, up = factors[slot.name]
            factors[slot.name] = down @ down_aux, up_aux @ up
        return factors

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` is the inverse."""
        slots = [list(asdict(slot).values()) for slot in self.slots]
        # Only where it is so: the digests of all other layouts are older than this field.
        return {"rank": self.rank, "seed": self.seed, "slots": slots} | ({"free": True} if self.free else {})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Layout":
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: Something is missing or of another kind.
        """
        try:
            slots = tuple(Slot(str(name), *(int(number) for number in numbers)) for name, *numbers in content["slots"])
            free = bool(content.get("free", False))
            return cls(slots, rank=int(content["rank"]), seed=int(content["seed"]), free=free)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"not a layout: {error}; expected rank, seed and slots of [name, in_features, out_features, a, b]"
            ) from error
