"""LiDBLinear: a frozen linear layer plus one residual per identity in the batch."""

from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.product import project, residual_linear


class LiDBLinear(nn.Linear):
    """A frozen linear layer whose weight carries a residual of rank r, made of a few numbers and two frozen bases.

        dW = up_aux · up · down · down_aux        (out, in) = (out, b) (b, r) (r, a) (a, in)

    It shares the parameters of the layer it replaces and keeps their names, so that `state_dict`, `.to` and everything
    that looks for an `nn.Linear` go on working, and it adds no parameter. With nothing bound it is that layer.

    The (out, in) residual is never formed. Folding the bases into the factors first, (r, a)(a, in) and (b, r)(out, b),
    costs n·r·a·in instead of the tokens·a·in of projecting every token to a, and leaves a LoRA of rank r per identity.

    Args:
        base: The layer to replace. It stays as it is and can be put back.
        down_aux: (a, in) with orthonormal rows, the same for everyone; None for a layer that binds free factors only.
        up_aux: (out, b) with orthonormal columns, the same for everyone, or None.

    Raises:
        ValueError: The layer is no plain `nn.Linear`, or the bases do not fit it.

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
        # nn.Linear.__init__ would draw a weight, from the global generator, only to throw it away.
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
        # The seed and the slot's name say what the bases are; storing them would multiply the size of a checkpoint.
        for name, aux in (("down_aux", down_aux), ("up_aux", up_aux)):
            self.register_buffer(name, None if aux is None else aux.detach().to(base.weight.device), persistent=False)
        self.down: Tensor | None = None
        self.up: Tensor | None = None

    def bind(
        self,
        down: Float[Tensor, "n r a"] | None,
        up: Float[Tensor, "n b r"] | None,
        scale: float = 1.0,
        *,
        free: bool = False,
    ) -> None:
        """Sets the residuals of n identities until the next `bind`; None takes them away.

        The factors are folded here, once, and keep their graph. They stay bound because gradient checkpointing runs
        `forward` again in backward.

        Args:
            free: The factors are those of an ordinary LoRA, a = in and b = out, and go past the bases.

        Raises:
            ValueError: Only one factor is given, or they fit neither each other nor the bases.
        """
        if down is None or up is None:
            if down is not up:
                raise ValueError("bind takes both factors of a residual or neither, given one")
            self.down, self.up = None, None
            return
        free = free or self.down_aux is None
        a, b = (self.in_features, self.out_features) if free else (self.down_aux.shape[0], self.up_aux.shape[1])
        if down.shape[2] != a or up.shape != (len(down), b, down.shape[1]):
            raise ValueError(
                f"factors {tuple(down.shape)} and {tuple(up.shape)} do not fit a layer of a = {a} and b = {b}, "
                f"which takes (n, r, {a}) and (n, {b}, r)"
            )
        bases = (None, None) if free else (self.down_aux[None], self.up_aux.mT[None])
        down, up = (
            project(rows.flatten(0, 1)[None], basis, scale=factor)[0].unflatten(0, rows.shape[:2])
            for rows, basis, factor in zip((down, up.mT), bases, (1.0, scale), strict=True)
        )
        self.bind_lora(down, up)

    def bind_lora(self, down: Float[Tensor, "n r in_"], up: Float[Tensor, "n r out"]) -> None:
        """Sets residuals that were folded, and scaled, already: `Folding` does so for all layers together."""
        self.down, self.up = down, up

    def fold(self) -> tuple[Float[Tensor, "n r in_"], Float[Tensor, "n r out"]]:
        """The bound residuals as ordinary LoRA factors: down · down_aux and (scale · up_aux · up)ᵀ."""
        if self.down is None or self.up is None:
            raise ValueError("nothing is bound to this layer, so there is no residual to fold")
        return self.down, self.up

    def forward(self, x: Float[Tensor, "m *tokens in_"]) -> Float[Tensor, "m *tokens out"]:
        """Applies the layer and each sample's own residual.

        Args:
            x: m samples. m is n (sample i gets residual i), or n is 1 (all get it), or m is k·n with the identities
                *tiled*, as classifier-free guidance makes them: `cat([x] * k)`, sample i gets residual i mod n.

        Raises:
            ValueError: m is no multiple of the n residuals bound.
        """
        if self.down is None:
            return super().forward(x)
        m, n = x.shape[0], self.down.shape[0]
        if m % n:
            raise ValueError(
                f"{n} residuals are bound, but the batch has {m} samples; expected {n} or a multiple of it"
            )
        return residual_linear(x, self.weight, self.bias, self.down, self.up)
