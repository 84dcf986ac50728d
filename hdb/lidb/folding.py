"""BatchedFolding: folds the bases into the factors of all layers, in one product per shape of a basis."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.lidb.layout import Factors
from hdb.lidb.linear import LiDBLinear
from hdb.lidb.product import project


class BatchedFolding:
    """Folds the bases into the factors of n identities for all layers of a model.

        down (n, r, a) · down_aux (a, in)        (scale · up_aux (out, b) · up (n, b, r))ᵀ

    Stable Diffusion 1.5 has 192 layers of 12 shapes. Layer by layer this would take 384 products, each so small that
    launching it dominates. The bases of layers of one shape are therefore stacked, and the layers keep views of them.

    Args:
        layers: The model's layers by slot name, either all with bases or all without.
    """

    def __init__(self, layers: Mapping[str, LiDBLinear]) -> None:
        self.layers = layers
        self._stacks: dict[tuple[str, tuple[int, ...]], Float[Tensor, "s _ _"]] = {}

    def __call__(
        self, factors: Factors, *, scale: float = 1.0, free: bool = False, dtype: torch.dtype | None = None
    ) -> Factors:
        """Computes {slot name: (down (n, r, in), up (n, r, out))} of an ordinary LoRA. Gradients flow through it.

        Args:
            factors: down (n, r, a) and up (n, b, r) of each slot.
            free: The factors have no bases, a = in and b = out.
            dtype: Of the results. All layers of a shape are cast together, and none in its forward pass. None is that
                of the bases, in which the products are computed.
        """
        down_rows = {name: down for name, (down, _) in factors.items()}
        up_rows = {name: up.mT for name, (_, up) in factors.items()}
        downs = self._project("down_aux", down_rows, scale=1.0, free=free, dtype=dtype)
        ups = self._project("up_aux", up_rows, scale=scale, free=free, dtype=dtype)
        return {name: (downs[name], ups[name]) for name in factors}

    def _project(
        self,
        basis_name: str,
        rows: Mapping[str, Float[Tensor, "n r _"]],
        *,
        scale: float,
        free: bool,
        dtype: torch.dtype | None,
    ) -> dict[str, Float[Tensor, "n r _"]]:
        """Multiplies the rows of each slot by one of its two bases."""
        names_by_shape = defaultdict(list)
        for name, row in rows.items():
            shape = tuple(row.shape[2:] if free else getattr(self.layers[name], basis_name).shape)
            names_by_shape[shape].append(name)
        projected = {}
        for shape, names in names_by_shape.items():
            stacked_rows = torch.stack([rows[name] for name in names])
            bases = None
            if not free:
                bases = self._stacked_bases(basis_name, shape, names)
                if basis_name == "up_aux":
                    bases = bases.mT
            folded = project(stacked_rows.flatten(1, 2), bases, scale=scale)
            if dtype is not None:
                folded = folded.to(dtype)
            projected.update(zip(names, folded.unflatten(1, stacked_rows.shape[1:3]).unbind(0), strict=True))
        return projected

    def _stacked_bases(self, basis_name: str, shape: tuple[int, ...], names: list[str]) -> Float[Tensor, "s _ _"]:
        """The stacked bases of layers of one shape, stacked anew after the model changed its device or precision."""
        current = getattr(self.layers[names[0]], basis_name)
        stack = self._stacks.get((basis_name, shape))
        if stack is None or (stack.device, stack.dtype) != (current.device, current.dtype):
            stack = torch.stack([getattr(self.layers[name], basis_name) for name in names])
            self._stacks[basis_name, shape] = stack
            for name, basis in zip(names, stack, strict=True):
                setattr(self.layers[name], basis_name, basis)
        return stack
