"""LearnedBases: bases of a layout's slots that are trained, folded into every theta."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.layout import Layout


class LearnedBases(nn.Module):
    """Both bases of every slot as parameters, which start at the frozen ones of the layout.

        theta (n, p) -> down · down_aux (n, r, in), up_aux · up (n, out, r) of each slot -> theta of a free LoRA (n, q)

    The parameters are the bases times √in and √out: so all their numbers are about one at the start, and a step of Adam
    moves the folded factors about as far as the same step on theta does, whatever the widths. Unscaled, one step of
    1e-3 on a layer of 1,280 inputs would move `down` by a third of its length. Nothing keeps them orthonormal.

    Args:
        layout: of theta, with bases.

    Raises:
        ValueError: the layout is free.

    >>> from hdb.lidb.layout import Slot
    >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2),))
    >>> LearnedBases(layout)(layout.initial_theta()).shape
    torch.Size([1, 16])
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        if layout.free:
            raise ValueError(f"a free layout of {layout.size} numbers has no bases to learn, expected one with a and b")
        self.layout = layout
        bases = [slot.aux_bases(seed=layout.seed) for slot in layout.slots]
        self.down_aux = nn.ParameterList([math.sqrt(down.shape[1]) * down for down, _ in bases])
        self.up_aux = nn.ParameterList([math.sqrt(up.shape[0]) * up for _, up in bases])

    def aux_bases(self) -> dict[str, tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]]:
        """{slot name: (down_aux (a, in), up_aux (out, b))} as they are now."""
        return {
            slot.name: (down / math.sqrt(slot.in_features), up / math.sqrt(slot.out_features))
            for slot, down, up in zip(self.layout.slots, self.down_aux, self.up_aux, strict=True)
        }

    def forward(self, theta: Float[Tensor, "n p"]) -> Float[Tensor, "n q"]:
        """Theta of `layout.as_lora` with the residuals that `theta` has within these bases."""
        with torch.autocast(theta.device.type, enabled=False):  # would round theta itself, and not only what it does
            return self.layout.as_lora.pack(self.layout.fold(theta, aux_bases=self.aux_bases()))
