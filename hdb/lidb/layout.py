"""Layout: the order, size and digest of the numbers in theta."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.names import component_of, find_target_layers
from hdb.lidb.options import LiDBOptions
from hdb.lidb.slot import Slot

# Incremented when the meaning of theta changes: the order inside a slot, how bases are drawn, the canonical names.
LAYOUT_VERSION = 1

Factors = dict[str, tuple[Tensor, Tensor]]  # {slot name: (down, up)}


@dataclass(frozen=True)
class Layout:
    """The order in which a vector theta holds the factors of all slots.

        theta = [down (r, a), up (b, r)] of slot 0, then of slot 1, ...        p = sum of r·(a + b)

    A free layout has no bases: a = in_features, b = out_features, and its factors are those of an ordinary LoRA. It
    holds any residual of its rank, in about thirteen times as many numbers for Stable Diffusion 1.5.

    Args:
        slots: In the order of theta.
        rank: r of every residual.
        seed: Of the bases and of the initial factors.
        free: Without bases.

    Raises:
        ValueError: No slots, two slots of one name, a rank below 1, a negative seed, or a free layout whose slots are
            narrower than their layers.

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
        for slot in self.slots:
            if self.free and slot != slot.as_lora:
                raise ValueError(
                    f"slot {slot.name} of a free layout has a = {slot.a} and b = {slot.b}, "
                    f"expected {slot.in_features} and {slot.out_features}"
                )

    @classmethod
    def from_models(
        cls,
        components: Mapping[str, nn.Module],
        *,
        a: int = LiDBOptions.a,
        b: int = LiDBOptions.b,
        rank: int = LiDBOptions.rank,
        seed: int = LiDBOptions.seed,
    ) -> "Layout":
        """The layout of a model: q, k, v, out of every attention, and the GEGLU projections of the denoiser.

        Reads names and shapes only, so models on the meta device will do. a and b are capped at the width of a layer.

        Args:
            components: The networks that are personalized, by name and in the order of theta.

        Raises:
            ValueError: The models have no such layer.
        """
        layers = find_target_layers(components)
        if not layers:
            raise ValueError(
                f"no attention or GEGLU projection found in {', '.join(components) or 'no components'}; expected "
                "diffusers' UNet2DConditionModel and transformers' CLIPTextModel"
            )
        slots = tuple(
            Slot(
                name,
                layer.in_features,
                layer.out_features,
                a=min(a, layer.in_features),
                b=min(b, layer.out_features),
            )
            for name, layer in layers.items()
        )
        return cls(slots, rank=rank, seed=seed)

    @cached_property
    def size(self) -> int:
        """p, the length of theta."""
        return sum(self._factor_sizes)

    @cached_property
    def _factor_sizes(self) -> list[int]:
        return [self.rank * width for slot in self.slots for width in (slot.a, slot.b)]

    @cached_property
    def components(self) -> tuple[str, ...]:
        """The names of the components that have slots, in the order of theta."""
        return tuple(dict.fromkeys(component_of(slot.name) for slot in self.slots))

    def lora_size(self, rank: int = 1) -> int:
        """The number of parameters of an ordinary LoRA of this rank over the same layers."""
        return sum(rank * (slot.in_features + slot.out_features) for slot in self.slots)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that gives theta its meaning: names, shapes, a, b, rank, seed and the bases.

        The bases enter by their first Gaussian draws, rounded to 6 decimals, and not by their own values, whose last
        bits depend on the machine's LAPACK.
        """
        content = self.to_dict()
        content["version"] = LAYOUT_VERSION
        content["draws"] = [slot.fingerprint(seed=self.seed) for slot in self.slots]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def check_theta(self, theta: Float[Tensor, "n p"], *, finite: bool = False) -> None:
        """Raises ValueError if theta is not (n, p) in this layout or, with `finite`, has infinite or NaN values."""
        if theta.ndim != 2 or theta.shape[1] != self.size:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}, expected (n, {self.size}) for {len(self.slots)} slots of rank "
                f"{self.rank}"
            )
        if finite:
            num_bad = theta.numel() - int(theta.isfinite().sum())
            if num_bad:
                raise ValueError(f"theta has {num_bad} values of {theta.numel()} that are not finite, expected 0")

    def check_digest(self, digest: str, *, name: str) -> None:
        """Raises ValueError if the digest stored with `name`, the file or object it is read from, is not this one."""
        if digest != self.digest:
            raise ValueError(f"{name} belongs to layout {digest}, expected {self.digest}")

    def unpack(self, theta: Float[Tensor, "n p"]) -> Factors:
        """Splits theta into {slot name: (down (n, r, a), up (n, b, r))}. These are views, and gradients flow through.

        Raises:
            ValueError: theta has another size.
        """
        self.check_theta(theta)
        # One split for all: the backward pass of a slice would fill a whole (n, p) with zeros for every factor.
        pieces = theta.split(self._factor_sizes, dim=1)
        factors = {}
        for slot, flat_down, flat_up in zip(self.slots, pieces[0::2], pieces[1::2], strict=True):
            down = flat_down.unflatten(1, (self.rank, slot.a))
            up = flat_up.unflatten(1, (slot.b, self.rank))
            factors[slot.name] = (down, up)
        return factors

    def pack(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Float[Tensor, "n p"]:
        """Joins the factors of all slots to theta, the inverse of `unpack`.

        Raises:
            ValueError: Factors are missing, unknown, or of another shape.
        """
        names = [slot.name for slot in self.slots]
        if set(names) != set(factors):
            differing = sorted(set(names) ^ set(factors))
            raise ValueError(
                f"factors of {len(factors)} slots given, expected {len(names)}; they differ in {differing[0]}"
            )
        theta = torch.cat([factor.flatten(1) for name in names for factor in factors[name]], dim=1)
        self.check_theta(theta)
        return theta

    def initial_theta(self) -> Float[Tensor, "1 p"]:
        """The initial theta that all people share: `down` has random rows of length one, `up` is zero.

        The residual is zero, as at the start of a LoRA. `down` is not, since with down = up = 0 the diffusion loss has
        no gradient.
        """
        return self.pack(
            {
                slot.name: (slot.initial_down(self.rank, seed=self.seed)[None], torch.zeros(1, slot.b, self.rank))
                for slot in self.slots
            }
        )

    @cached_property
    def as_lora(self) -> "Layout":
        """The free layout of the same layers and rank."""
        return replace(self, slots=tuple(slot.as_lora for slot in self.slots), free=True)

    def fold(
        self, theta: Float[Tensor, "n p"], *, aux_bases: Mapping[str, tuple[Tensor, Tensor]] | None = None
    ) -> Factors:
        """The factors of an ordinary LoRA with the same residuals, in float32. Gradients flow through.

            down · down_aux (n, r, in)        up_aux · up (n, out, r)

        Args:
            aux_bases: (down_aux, up_aux) of each slot to use instead of the frozen bases.
        """
        factors = self.unpack(theta.float())
        if self.free:
            return factors
        for slot in self.slots:
            down_aux, up_aux = slot.aux_bases(seed=self.seed) if aux_bases is None else aux_bases[slot.name]
            down, up = factors[slot.name]
            factors[slot.name] = (down @ down_aux.to(theta.device), up_aux.to(theta.device) @ up)
        return factors

    def to_dict(self) -> dict[str, Any]:
        """The layout as values that JSON can hold. The inverse is `from_dict`."""
        content: dict[str, Any] = {
            "rank": self.rank,
            "seed": self.seed,
            "slots": [list(asdict(slot).values()) for slot in self.slots],
        }
        if self.free:  # left out otherwise: the digests of layouts with bases are older than this field
            content["free"] = True
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Layout":
        """Reads what `to_dict` returned.

        Raises:
            ValueError: Something is missing or has another type.
        """
        try:
            slots = tuple(Slot(str(name), *(int(number) for number in numbers)) for name, *numbers in content["slots"])
            return cls(
                slots,
                rank=int(content["rank"]),
                seed=int(content["seed"]),
                free=bool(content.get("free", False)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"not a layout: {error}; expected rank, seed and slots of [name, in_features, out_features, a, b]"
            ) from error
