"""Residuals: theta together with the layout that gives it meaning; what a diffusion model is bound to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.lidb.layout import Layout


@dataclass(eq=False)
class Residuals:
    """The residuals of n people.

    Args:
        theta: One row per person.
        layout: What its numbers mean.

    Raises:
        ValueError: theta is not of this layout.

    >>> from hdb.lidb.slot import Slot
    >>> residuals = Residuals.initial(Layout((Slot("unet.to_q", 8, 8, a=4, b=2), Slot("unet.to_k", 8, 8, a=4, b=2))))
    >>> residuals.layout.size, residuals.relax(3).layout.size, len(residuals[[0, 0]])
    (12, 36, 2)
    """

    theta: Float[Tensor, "n p"]
    layout: Layout

    def __post_init__(self) -> None:
        self.layout.check_theta(self.theta)

    @classmethod
    def initial(cls, layout: Layout) -> "Residuals":
        """The start that everyone shares: no residual."""
        return cls(layout.initial_theta(), layout)

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, rows: slice | list[int]) -> "Residuals":
        """Some of the people, in the order asked for."""
        return Residuals(self.theta[rows], self.layout)

    def to(self, target: torch.dtype | torch.device) -> "Residuals":
        """In another precision or on another device."""
        return Residuals(self.theta.to(target), self.layout)

    def relax(self, rank: int, *, free: bool = False) -> "Residuals":
        """The same residuals in a layout of higher rank: fresh rows of `down` beside zero columns of `up`.

        Paper: the prediction is added to the base weights and a residual of higher rank trained on top. Here: it
        keeps its place and gets company, because a base with one person's weights inside could serve nobody else, and
        an exact relaxation needs no singular value decomposition.

        Args:
            free: Leave the bases, too: they are folded into the factors, and no row is confined to them any more.

        Raises:
            ValueError: The rank is below that of this layout.
        """
        old = self.layout
        if rank < old.rank:
            raise ValueError(f"cannot relax rank {old.rank} to {rank}; expected {old.rank} or more")
        layout = replace(old.as_lora if free else old, rank=rank)
        known, factors = old.fold(self.theta) if free else old.unpack(self.theta), {}
        for slot in layout.slots:
            down, up = known[slot.name]
            fresh = slot.start(rank, seed=old.seed)[old.rank :].to(down).expand(len(self), -1, -1)
            zeros = up.new_zeros(len(self), slot.b, rank - old.rank)
            factors[slot.name] = torch.cat([down, fresh], dim=1), torch.cat([up, zeros], dim=2)
        return Residuals(layout.pack(factors), layout)

    def rescale(self, scales: Sequence[float], *, text_encoder_scales: Sequence[float] | None = None) -> "Residuals":
        """Everyone's residuals times a factor of their own.

        Args:
            text_encoder_scales: Of the text encoder's layers; None is the same factors.
        """
        factor, text_factor = (
            self.theta.new_tensor(of)[:, None, None]
            for of in (scales, scales if text_encoder_scales is None else text_encoder_scales)
        )
        scaled = {
            name: (down, (text_factor if name.startswith("text_encoder.") else factor) * up)
            for name, (down, up) in self.layout.unpack(self.theta).items()
        }
        return Residuals(self.layout.pack(scaled), self.layout)

    def mix(self, weights: Sequence[float]) -> "Residuals":
        """One person made of all of them: the weighted sum of their residuals, exact, in n times their rank.

        Raises:
            ValueError: There is not one weight for each.
        """
        if len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} people: expected one for each")
        layout, factors = replace(self.layout, rank=self.layout.rank * len(self)), {}
        for name, (down, up) in self.layout.unpack(self.rescale(weights).theta).items():
            factors[name] = down.flatten(0, 1)[None], up.movedim(0, 1).flatten(1)[None]
        return Residuals(layout.pack(factors), layout)

    @staticmethod
    def join(people: "Sequence[Residuals]") -> "Residuals":
        """Several people's in one layout that holds all of them exactly.

        It has the highest of their ranks and their bases, or none where those differ.

        Raises:
            ValueError: They are of different layers.

        >>> from hdb.lidb.slot import Slot
        >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2),))
        >>> joined = Residuals.join([Residuals.initial(layout), Residuals.initial(replace(layout, rank=3, seed=1))])
        >>> joined.layout.free, joined.layout.rank, len(joined)
        (True, 3, 2)
        """
        first, rank = people[0].layout, max(person.layout.rank for person in people)
        free = any(replace(person.layout, rank=rank) != replace(first, rank=rank) for person in people)
        for person in people:
            if person.layout.as_lora.slots != first.as_lora.slots:
                first.check_digest(person.layout.digest, name="one of several people")
        relaxed = [person.relax(rank, free=free) for person in people]
        return Residuals(torch.cat([person.theta for person in relaxed]), relaxed[0].layout)
