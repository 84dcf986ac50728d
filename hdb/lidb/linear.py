"""LiDBLinear: a frozen linear layer plus one residual per identity in the batch."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.product import project, residual_linear, sibling_linears


class LiDBLinear(nn.Linear):
    """A frozen linear layer with one residual of rank r per identity, inside two frozen bases.

        ΔW = up_aux · up · down · down_aux        (out, in) = (out, b) (b, r) (r, a) (a, in)

    The layer shares the parameters of the one it replaces and keeps their names, so `state_dict`, `.to` and code that
    looks for `nn.Linear` work as before. It adds no parameters. With nothing bound it is the replaced layer.

    The residual (out, in) is never formed. The bases are folded into the factors first, (r, a)(a, in) and
    (out, b)(b, r), which costs n·r·a·in instead of the tokens·a·in of projecting every token, and leaves a LoRA of
    rank r per identity.

    Args:
        base: The layer to replace. It is not changed and can be put back.
        down_aux: Basis of the input, (a, in) with orthonormal rows, shared by all identities. None for a layer whose
            factors are those of an ordinary LoRA.
        up_aux: Basis of the output, (out, b) with orthonormal columns, or None.

    Raises:
        ValueError: The layer is not a plain `nn.Linear`, or the bases do not fit it.

    Source: HyperDreamBooth, section 4.1, https://arxiv.org/abs/2307.06949

    >>> import torch
    >>> layer = LiDBLinear(nn.Linear(3, 2), torch.eye(3)[:1], torch.eye(2)[:, :1])
    >>> layer.bind(torch.ones(1, 1, 1), torch.ones(1, 1, 1), scale=5.0)
    >>> layer(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self, base: nn.Linear, down_aux: Float[Tensor, "a in_"] | None, up_aux: Float[Tensor, "out b"] | None
    ) -> None:
        # Not nn.Linear.__init__, which would draw a weight from the global generator.
        nn.Module.__init__(self)
        if type(base) is not nn.Linear:
            raise ValueError(f"LiDB replaces plain nn.Linear layers, given {type(base).__qualname__}")
        if (down_aux is None) != (up_aux is None):
            raise ValueError("a LiDB layer has both bases or neither, given one")
        if down_aux is not None and (down_aux.shape[1], up_aux.shape[0]) != (base.in_features, base.out_features):
            raise ValueError(
                f"bases for a layer of {down_aux.shape[1]} inputs and {up_aux.shape[0]} outputs were given to one of "
                f"{base.in_features} inputs and {base.out_features} outputs"
            )
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.train(base.training)
        # Not persistent: the bases follow from the seed and the slot's name, and would multiply a checkpoint's size.
        for name, aux in (("down_aux", down_aux), ("up_aux", up_aux)):
            self.register_buffer(name, None if aux is None else aux.detach().to(base.weight.device), persistent=False)
        self.down: Tensor | None = None  # (n, r, in) of the bound residuals, with the bases folded in
        self.up: Tensor | None = None  # (n, r, out)
        self.siblings: Siblings | None = None  # among which it is

    def bind(
        self,
        down: Float[Tensor, "n r a"] | None,
        up: Float[Tensor, "n b r"] | None,
        scale: float = 1.0,
        *,
        free: bool = False,
    ) -> None:
        """Sets the residuals of n identities until the next `bind`. None removes them.

        The bases are folded into the factors here, once, and the result keeps its graph. It stays bound because
        gradient checkpointing runs `forward` again in the backward pass.

        Args:
            free: The factors are those of an ordinary LoRA, a = in and b = out, and bypass the bases.

        Raises:
            ValueError: Only one factor is given, or the factors fit neither each other nor the bases.
        """
        if down is None or up is None:
            if down is not up:
                raise ValueError("bind takes both factors of a residual or neither, given one")
            self.down = None
            self.up = None
            return
        if free or self.down_aux is None:
            a, b = self.in_features, self.out_features
            down_basis = up_basis = None
        else:
            a, b = self.down_aux.shape[0], self.up_aux.shape[1]
            down_basis, up_basis = self.down_aux[None], self.up_aux.mT[None]
        if down.shape[2] != a or up.shape != (len(down), b, down.shape[1]):
            raise ValueError(
                f"factors {tuple(down.shape)} and {tuple(up.shape)} do not fit a layer of a = {a} and b = {b}, "
                f"which takes (n, r, {a}) and (n, {b}, r)"
            )
        # (n, r, a) -> (1, n·r, a) -> (1, n·r, in) -> (n, r, in), and alike for up.
        lora_down = project(down.flatten(0, 1)[None], down_basis)[0].unflatten(0, down.shape[:2])
        lora_up = project(up.mT.flatten(0, 1)[None], up_basis, scale=scale)[0].unflatten(0, down.shape[:2])
        self.bind_lora(lora_down, lora_up)

    def bind_lora(self, down: Float[Tensor, "n r in_"], up: Float[Tensor, "n r out"]) -> None:
        """Sets LoRA factors with the bases and the scale folded in, as `BatchedFolding` computes them."""
        self.down = down
        self.up = up

    def lora_factors(self) -> tuple[Float[Tensor, "n r in_"], Float[Tensor, "n r out"]]:
        """The bound residuals as LoRA factors: down · down_aux and (scale · up_aux · up)ᵀ."""
        if self.down is None or self.up is None:
            raise ValueError("nothing is bound to this layer, so there is no residual to fold")
        return self.down, self.up

    def forward(self, x: Float[Tensor, "m *tokens in_"]) -> Float[Tensor, "m *tokens out"]:
        """Applies the layer and adds each sample's residual.

        Args:
            x: m samples, a multiple of the n bound identities; sample i gets residual i mod n. Classifier-free
                guidance tiles its batch this way, `cat([x] * 2)`.

        Raises:
            ValueError: m is not a multiple of n.
        """
        if self.down is None:
            return super().forward(x)
        m, n = x.shape[0], self.down.shape[0]
        if m % n:
            raise ValueError(
                f"{n} residuals are bound, but the batch has {m} samples; expected {n} or a multiple of it"
            )
        if self.siblings is not None and self.siblings.can_share():
            return self.siblings.compute(self, x)
        return residual_linear(x, self.weight, self.bias, self.down, self.up)


class Siblings:
    """LiDB layers that are called one after the other with the same input, as query, key and value are.

    The first of them that is called computes the outputs of all, and the others hand theirs out.
    """

    def __init__(self, layers: Sequence[LiDBLinear]) -> None:
        self.layers = layers
        self._x: Tensor | None = None
        # The outputs that nobody has asked for yet, with the factors that they were computed with.
        self._waiting: dict[LiDBLinear, tuple[Tensor, Tensor, Tensor]] = {}

    def can_share(self) -> bool:
        """Whether all of them have one residual of one rank and frozen weights."""
        rank = None if self.layers[0].down is None else self.layers[0].down.shape[1]
        return all(
            layer.down is not None and layer.down.shape[:2] == (1, rank) and not layer.weight.requires_grad
            for layer in self.layers
        )

    def compute(self, layer: LiDBLinear, x: Float[Tensor, "m *tokens in_"]) -> Float[Tensor, "m *tokens out"]:
        """The output of one of them."""
        out, down, up = self._waiting.pop(layer, (None, None, None))
        if out is None or x is not self._x or down is not layer.down or up is not layer.up:
            downs = [sibling.down for sibling in self.layers]
            ups = [sibling.up for sibling in self.layers]
            weights = [sibling.weight for sibling in self.layers]
            outs = sibling_linears(x, weights, [sibling.bias for sibling in self.layers], downs, ups)
            self._x = x
            self._waiting = dict(zip(self.layers, zip(outs, downs, ups, strict=True), strict=True))
            out, _, _ = self._waiting.pop(layer)
        if not self._waiting:
            self._x = None
        return out
