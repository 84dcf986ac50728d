"""LiDB: puts LiDB layers into a UNet and a text encoder; binds, merges, takes them out again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.folding import Folding
from hdb.lidb.layout import Layout
from hdb.lidb.linear import LiDBLinear
from hdb.lidb.names import find_target_layers
from hdb.lidb.residuals import Residuals


class LiDB:
    """The personalized layers of a diffusion model, all bound by one theta.

    Replaces the layers in place, in the models given. Their weights, and the names of these, stay what they are.

    Args:
        unet: diffusers' UNet2DConditionModel, or None.
        text_encoder: transformers' CLIPTextModel, or None.
        layout: Names the layers to replace. Default: `Layout.from_models` the models.

    Raises:
        ValueError: The models do not have exactly the layers of the layout, or have LiDB layers already.

    >>> block = nn.ModuleDict({"to_q": nn.Linear(8, 8)})
    >>> lidb = LiDB(unet=block, layout=Layout.from_models(unet=block, a=4, b=2))
    >>> lidb.bind(lidb.layout.initial_theta())
    """

    def __init__(
        self,
        *,
        unet: nn.Module | None = None,
        text_encoder: nn.Module | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.layout = Layout.from_models(unet=unet, text_encoder=text_encoder) if layout is None else layout
        found = find_target_layers(unet=unet, text_encoder=text_encoder)
        _check_layers(found, self.layout)
        owners = {
            child: (parent, name)
            for model in (unet, text_encoder)
            if model is not None
            for parent in model.modules()
            for name, child in parent.named_children()
        }
        self.layers: dict[str, LiDBLinear] = {}
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._originals: dict[str, nn.Linear] = {}
        for slot in self.layout.slots:
            original = found[slot.name]
            parent, name = owners[original]
            drawn = slot.meta_aux_bases if original.weight.is_meta else partial(slot.aux_bases, seed=self.layout.seed)
            aux = (None, None) if self.layout.free else drawn()
            layer = LiDBLinear(original, *aux)
            setattr(parent, name, layer)
            self.layers[slot.name] = layer
            self._owners[slot.name] = parent, name
            self._originals[slot.name] = original
        self._fold = Folding(self.layers)
        self._bound: tuple[Residuals | None, float] = (None, 1.0)

    def check_layout(self, layout: Layout) -> None:
        """Raises ValueError naming both digests if residuals of this layout cannot be bound.

        They need not be of the adapter's own: the bases serve every rank, and a free layout needs none.
        """
        own = replace(self.layout.as_lora, seed=layout.seed) if layout.free else self.layout
        if replace(layout, rank=own.rank) != own:
            self.layout.check_digest(layout.digest, name="theta")

    def bind(self, people: Residuals | Float[Tensor, "n p"] | None, *, scale: float = 1.0) -> None:
        """Gives the model the residuals of n identities until the next `bind`; None gives the base back.

        Gradients flow to theta. See `LiDBLinear.forward` for which sample gets which residual.

        Args:
            people: Residuals, see `check_layout`; a bare theta is of the adapter's own layout.
            scale: Factor on all residuals: 0 is the base, 1 the person.

        Raises:
            ValueError: theta is of another size or, on a CPU, not finite, or the layout has other bases. The previous
                binding stays.
        """
        if people is None:
            for layer in self.layers.values():
                layer.bind(None, None)
        else:
            people = people if isinstance(people, Residuals) else Residuals(people, self.layout)
            self.check_layout(people.layout)
            # On a GPU the search for NaN would wait for the device: whoever brings a theta there looks before.
            people.layout.check_theta(people.theta, finite=people.theta.device.type == "cpu")
            theta = people.theta.to(next(iter(self.layers.values())).weight.device)
            folded = self._fold(people.layout.unpack(theta), scale=scale, free=people.layout.free)
            for name, (down, up) in folded.items():
                self.layers[name].bind_lora(down, up)
        self._bound = people, scale

    @contextmanager
    def bound(self, people: Residuals | Float[Tensor, "n p"] | None, *, scale: float = 1.0) -> Iterator[None]:
        """Binds people within a `with` block, then who was bound before.

        With gradient checkpointing `backward` belongs inside the block, too: it runs the layers again.
        """
        previous, previous_scale = self._bound
        self.bind(people, scale=scale)
        try:
            yield
        finally:
            self.bind(previous, scale=previous_scale)

    @contextmanager
    def unbound(self) -> Iterator[None]:
        """Gives the base back within a `with` block; behind it who was bound is bound again, without a new fold."""
        held, bound = {name: (layer.down, layer.up) for name, layer in self.layers.items()}, self._bound
        try:
            self.bind(None)
            yield
        finally:
            for name, (down, up) in held.items():
                self.layers[name].down, self.layers[name].up = down, up
            self._bound = bound

    @torch.no_grad()
    def merge(self, person: Residuals | Float[Tensor, "n p"], *, scale: float = 1.0) -> None:
        """Adds one person's residuals to the base weights for good. Meant for a copy that is exported.

        Nothing is bound afterwards.

        Args:
            person: As in `bind`, of n = 1.
            scale: As in `bind`.

        Raises:
            ValueError: theta is not of one person, of another size or not finite.
        """
        if len(person) != 1:
            raise ValueError(f"a model can take the weights of 1 person, given {len(person)}")
        self.bind(person, scale=scale)
        for layer in self.layers.values():
            down, up = layer.fold()
            # In float32, so that half precision rounds the sum once and not the residual before.
            layer.weight.copy_(layer.weight.float() + up[0].float().mT @ down[0].float())
        self.bind(None)

    def detach(self) -> None:
        """Puts the original layers back. The adapter is of no use afterwards."""
        for name, (parent, attribute) in self._owners.items():
            original, layer = self._originals[name], self.layers[name]
            # The same parameters, unless somebody replaced them meanwhile.
            original.weight, original.bias = layer.weight, layer.bias
            setattr(parent, attribute, original)
        self.layers, self._owners, self._originals = {}, {}, {}


def _check_layers(found: dict[str, nn.Linear], layout: Layout) -> None:
    if any(isinstance(layer, LiDBLinear) for layer in found.values()):
        raise ValueError("the model has LiDB layers already; detach the adapter that put them there first")
    names = {slot.name for slot in layout.slots}
    if odd := sorted(names ^ set(found)):
        where = "the layout" if odd[0] in names else "the model"
        raise ValueError(
            f"the layout has {len(names)} slots, the model {len(found)} layers to personalize; "
            f"only {where} has {odd[0]}"
        )
    for slot in layout.slots:
        layer = found[slot.name]
        if (layer.in_features, layer.out_features) != (slot.in_features, slot.out_features):
            raise ValueError(
                f"{slot.name} is {layer.in_features} -> {layer.out_features} in the model, "
                f"{slot.in_features} -> {slot.out_features} in the layout"
            )
