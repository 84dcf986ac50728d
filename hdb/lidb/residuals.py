"""Residuals: theta together with the layout that gives it meaning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.lidb.layout import Layout
from hdb.lidb.names import component_of, is_text_encoder


@dataclass(eq=False)
class Residuals:
    """The residuals of n identities: what a diffusion model is bound to.

    Args:
        theta: One row per identity.
        layout: The meaning of its numbers.

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
        """The initial residuals of one identity: zero, with a `down` from which training can start."""
        return cls(layout.initial_theta(), layout)

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, rows: slice | list[int]) -> "Residuals":
        """The residuals of some of the identities, in the order given."""
        return Residuals(self.theta[rows], self.layout)

    def to(self, target: torch.dtype | torch.device) -> "Residuals":
        """The same residuals in another precision or on another device."""
        return Residuals(self.theta.to(target), self.layout)

    def relax(self, rank: int, *, free: bool = False) -> "Residuals":
        """Rank relaxation: the same residuals in a layout of higher rank, with new random `down` rows and zero `up`.

        Paper: the prediction is merged into the base weights, and a residual of higher rank is trained on top. Here:
        the prediction stays part of the trained residual. A base with one person merged could serve nobody else, and
        this relaxation is exact without a singular value decomposition.

        Args:
            rank: The new rank.
            free: Also fold the bases into the factors, so that they are no longer confined to the bases.

        Raises:
            ValueError: The rank is below that of this layout.

        Source: HyperDreamBooth, section 4.3, https://arxiv.org/abs/2307.06949
        """
        old = self.layout
        if rank < old.rank:
            raise ValueError(f"cannot relax rank {old.rank} to {rank}; expected {old.rank} or more")
        layout = replace(old.as_lora if free else old, rank=rank)
        old_factors = old.fold(self.theta) if free else old.unpack(self.theta)
        factors = {}
        for slot in layout.slots:
            down, up = old_factors[slot.name]
            new_down = slot.initial_down(rank, seed=old.seed)[old.rank :].to(down).expand(len(self), -1, -1)
            new_up = up.new_zeros(len(self), slot.b, rank - old.rank)
            factors[slot.name] = (torch.cat([down, new_down], dim=1), torch.cat([up, new_up], dim=2))
        return Residuals(layout.pack(factors), layout)

    def rescale(self, scales: Sequence[float], *, text_encoder_scales: Sequence[float] | None = None) -> "Residuals":
        """Multiplies the residuals of each identity by a factor.

        Args:
            scales: One factor per identity.
            text_encoder_scales: Factors for the layers of all text encoders, if they differ.
        """
        if text_encoder_scales is None:
            text_encoder_scales = scales
        denoiser_factor = self.theta.new_tensor(scales)[:, None, None]
        text_encoder_factor = self.theta.new_tensor(text_encoder_scales)[:, None, None]
        rescaled = {}
        for name, (down, up) in self.layout.unpack(self.theta).items():
            factor = text_encoder_factor if is_text_encoder(component_of(name)) else denoiser_factor
            rescaled[name] = (down, factor * up)
        return Residuals(self.layout.pack(rescaled), self.layout)

    def mix(self, weights: Sequence[float]) -> "Residuals":
        """Combines the n identities into one: the exact weighted sum of their residuals, in n times the rank.

        Args:
            weights: One per identity.

        Raises:
            ValueError: The number of weights is another one.
        """
        if len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} people: expected one for each")
        layout = replace(self.layout, rank=self.layout.rank * len(self))
        mixed = {}
        for name, (down, up) in self.layout.unpack(self.rescale(weights).theta).items():
            # A sum of low-rank products is one product of the concatenated factors.
            mixed[name] = (down.flatten(0, 1)[None], up.movedim(0, 1).flatten(1)[None])
        return Residuals(layout.pack(mixed), layout)

    @staticmethod
    def join(people: "Sequence[Residuals]") -> "Residuals":
        """Concatenates residuals in one layout that holds all of them exactly.

        The layout has the highest of their ranks. It keeps their bases, or is free if these differ.

        Raises:
            ValueError: They are of different layers.

        >>> from hdb.lidb.slot import Slot
        >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2),))
        >>> joined = Residuals.join([Residuals.initial(layout), Residuals.initial(replace(layout, rank=3, seed=1))])
        >>> joined.layout.free, joined.layout.rank, len(joined)
        (True, 3, 2)
        """
        first = people[0].layout
        rank = max(person.layout.rank for person in people)
        for person in people:
            if person.layout.as_lora.slots != first.as_lora.slots:
                first.check_digest(person.layout.digest, name="one of several people")
        free = any(replace(person.layout, rank=rank) != replace(first, rank=rank) for person in people)
        relaxed = [person.relax(rank, free=free) for person in people]
        return Residuals(torch.cat([person.theta for person in relaxed]), relaxed[0].layout)
