"""Folding: the factors of all layers through their bases, layers of one shape together."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.lidb.layout import Factors
from hdb.lidb.linear import LiDBLinear
from hdb.lidb.product import project


class Folding:
    """Folds the residuals of n people for all layers of a model, one product for each shape of a basis.

        down (n, r, a) · down_aux (a, in)        (scale · up_aux (out, b) · up (n, b, r))ᵀ

    Stable Diffusion 1.5 has 192 layers and 12 shapes: one by one, 384 products so small that starting them takes all
    the time. The layers keep their bases, as views of those stacked here.

    Args:
        layers: of the model by slot name, all with bases or all without.
    """

    def __init__(self, layers: Mapping[str, LiDBLinear]) -> None:
        self.layers = layers
        self._stacks: dict[tuple[str, tuple[int, ...]], Float[Tensor, "s _ _"]] = {}

    def __call__(self, factors: Factors, *, scale: float = 1.0, free: bool = False) -> Factors:
        """Slot name -> (down (n, r, in), up (n, r, out)) of an ordinary LoRA, through which gradients flow.

        Args:
            factors: down (n, r, a) and up (n, b, r) of each slot.
            free: they are past the bases already, a = in and b = out.
        """
        downs = self._projected("down_aux", {name: down for name, (down, _) in factors.items()}, free=free)
        rows = {name: up.mT for name, (_, up) in factors.items()}
        ups = self._projected("up_aux", rows, scale=scale, free=free)
        return {name: (downs[name], ups[name]) for name in factors}

    def _projected(
        self, side: str, rows: Mapping[str, Float[Tensor, "n r _"]], *, scale: float = 1.0, free: bool
    ) -> dict[str, Float[Tensor, "n r _"]]:
        """The rows of each slot through its basis on one side."""
        alike, projected = defaultdict(list), {}
        for name, row in rows.items():
            alike[row.shape[2] if free else tuple(getattr(self.layers[name], side).shape)].append(name)
        for shape, names in alike.items():
            bases, stacked = None if free else self._stack(side, shape, names), torch.stack([rows[of] for of in names])
            bases = bases if free or side == "down_aux" else bases.mT
            folded = project(stacked.flatten(1, 2), bases, scale=scale)
            projected |= zip(names, folded.unflatten(1, stacked.shape[1:3]).unbind(0), strict=True)
        return projected

    def _stack(self, side: str, shape: tuple[int, ...], names: list[str]) -> Float[Tensor, "s _ _"]:
        """The bases of layers that are alike, where the layers and in what precision they are now."""
        held, now = self._stacks.get((side, shape)), getattr(self.layers[names[0]], side)
        if held is None or (held.device, held.dtype) != (now.device, now.dtype):
            held = self._stacks[side, shape] = torch.stack([getattr(self.layers[name], side) for name in names])
            for name, basis in zip(names, held, strict=True):
                setattr(self.layers[name], side, basis)
        return held
