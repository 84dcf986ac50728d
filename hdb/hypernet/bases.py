"""LearnedBases: aux bases that are trained together with the hypernetwork."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.layout import Layout


class LearnedBases(nn.Module):
    """Both aux bases of every slot as parameters, initialized with the frozen bases of the layout.

        theta (n, p) -> down · down_aux (n, r, in), up_aux · up (n, out, r) of each slot -> theta of a free LoRA (n, q)

    The parameters are the bases times √in and √out. All of them are then about one in size, and a step of Adam moves
    the folded factors about as far as the same step on theta does, for layers of any width. Unscaled, a step of 1e-3 on
    a layer of 1,280 inputs would move `down` by a third of its length. Nothing keeps the bases orthonormal.

    Args:
        layout: Of theta, with bases.

    Raises:
        ValueError: The layout is free.

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
        self.down_aux = nn.ParameterList()
        self.up_aux = nn.ParameterList()
        for slot in layout.slots:
            down_aux, up_aux = slot.aux_bases(seed=layout.seed)
            self.down_aux.append(nn.Parameter(math.sqrt(slot.in_features) * down_aux))
            self.up_aux.append(nn.Parameter(math.sqrt(slot.out_features) * up_aux))

    def aux_bases(self) -> dict[str, tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]]:
        """{slot name: (down_aux (a, in), up_aux (out, b))} as trained so far."""
        return {
            slot.name: (down_aux / math.sqrt(slot.in_features), up_aux / math.sqrt(slot.out_features))
            for slot, down_aux, up_aux in zip(self.layout.slots, self.down_aux, self.up_aux, strict=True)
        }

    def forward(self, theta: Float[Tensor, "n p"]) -> Float[Tensor, "n q"]:
        """Folds the bases into theta. The result has the layout `layout.as_lora` and the same residuals."""
        with torch.autocast(theta.device.type, enabled=False):  # autocast would round theta itself
            return self.layout.as_lora.pack(self.layout.fold(theta, aux_bases=self.aux_bases()))
