"""LiDB: puts LiDB layers into a diffusion model, binds residuals to them, merges them, removes them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdb.lidb.folding import BatchedFolding
from hdb.lidb.layout import Layout
from hdb.lidb.linear import LiDBLinear, Siblings
from hdb.lidb.names import SIBLINGS, SIBLINGS_OF_TEXT, find_target_layers
from hdb.lidb.residuals import Residuals
from hdb.lidb.slot import Slot


class LiDB:
    """The personalized layers of a diffusion model, all bound by one theta.

    Replaces linear layers in place. The weights and their names in `state_dict` stay the same.

    Args:
        components: The networks that are personalized, by name and in the order of theta.
        layout: Names the layers to replace. Default: `Layout.from_models` with the paper's sizes.

    Raises:
        ValueError: The models do not have exactly the layers of the layout, or have LiDB layers already.

    >>> block = nn.ModuleDict({"to_q": nn.Linear(8, 8)})
    >>> lidb = LiDB({"unet": block}, layout=Layout.from_models({"unet": block}, a=4, b=2))
    >>> lidb.bind(lidb.layout.initial_theta())
    """

    def __init__(self, components: Mapping[str, nn.Module], *, layout: Layout | None = None) -> None:
        self.layout = Layout.from_models(components) if layout is None else layout
        originals = find_target_layers(components)
        _check_layers(originals, self.layout)
        parents = {}  # layer -> (parent module, attribute name)
        for model in components.values():
            for parent in model.modules():
                for attribute, child in parent.named_children():
                    parents[child] = (parent, attribute)
        self.layers: dict[str, LiDBLinear] = {}
        self._parents: dict[str, tuple[nn.Module, str]] = {}
        self._originals: dict[str, nn.Linear] = {}
        for slot in self.layout.slots:
            original = originals[slot.name]
            parent, attribute = parents[original]
            down_aux, up_aux = self._aux_bases(slot, original)
            layer = LiDBLinear(original, down_aux, up_aux)
            setattr(parent, attribute, layer)
            self.layers[slot.name] = layer
            self._parents[slot.name] = (parent, attribute)
            self._originals[slot.name] = original
        self._make_siblings()
        self._fold = BatchedFolding(self.layers)
        self._bound_residuals: Residuals | None = None
        self._bound_scale = 1.0

    def _make_siblings(self) -> None:
        """Has the layers that read one input computed together."""
        by_parent = defaultdict(list)
        for name, (parent, attribute) in self._parents.items():
            reads_text = getattr(parent, "is_cross_attention", False)
            if attribute in (SIBLINGS_OF_TEXT if reads_text else SIBLINGS):
                by_parent[parent].append(self.layers[name])
        for layers in by_parent.values():
            if len(layers) > 1:
                siblings = Siblings(layers)
                for layer in layers:
                    layer.siblings = siblings

    def _aux_bases(self, slot: Slot, layer: nn.Linear) -> tuple[Tensor | None, Tensor | None]:
        if self.layout.free:
            return None, None
        return slot.meta_aux_bases() if layer.weight.is_meta else slot.aux_bases(seed=self.layout.seed)

    def check_layout(self, layout: Layout) -> None:
        """Raises ValueError naming both digests if residuals of this layout cannot be bound.

        Any rank can be bound, and so can a free layout of the same layers, which needs no bases.
        """
        expected = replace(self.layout.as_lora, seed=layout.seed) if layout.free else self.layout
        if replace(layout, rank=expected.rank) != expected:
            self.layout.check_digest(layout.digest, name="theta")

    def bind(
        self, residuals: Residuals | Float[Tensor, "n p"] | None, *, scale: float = 1.0, keep_precision: bool = False
    ) -> None:
        """Sets the residuals of n identities until the next `bind`. None removes them, which leaves the base.

        Gradients flow to theta. In a batch, sample i gets the residual of identity i mod n.

        Args:
            residuals: Residuals that pass `check_layout`, or a theta of the adapter's own layout.
            scale: Factor on all residuals: 0 is the base, 1 the person.
            keep_precision: Do not round the factors to the precision that the layers compute in.

        Raises:
            ValueError: theta has another size or, on the CPU, is not finite, or the layout has other bases. What was
                bound before stays bound.
        """
        if residuals is None:
            for layer in self.layers.values():
                layer.bind(None, None)
        else:
            if not isinstance(residuals, Residuals):
                residuals = Residuals(residuals, self.layout)
            self.check_layout(residuals.layout)
            # A search for NaN on a GPU would wait for the device. Callers check theta before they move it there.
            residuals.layout.check_theta(residuals.theta, finite=residuals.theta.device.type == "cpu")
            weight = next(iter(self.layers.values())).weight
            factors = residuals.layout.unpack(residuals.theta.to(weight.device))
            dtype = None if keep_precision else _working_dtype(weight)
            folded = self._fold(factors, scale=scale, free=residuals.layout.free, dtype=dtype)
            for name, (down, up) in folded.items():
                self.layers[name].bind_lora(down, up)
        self._bound_residuals = residuals
        self._bound_scale = scale

    def is_bound(self, residuals: Residuals | None, *, scale: float = 1.0) -> bool:
        """Whether these residuals, the same object, are bound at this scale."""
        return residuals is self._bound_residuals and scale == self._bound_scale

    @contextmanager
    def bound(self, residuals: Residuals | Float[Tensor, "n p"] | None, *, scale: float = 1.0) -> Iterator[None]:
        """Binds residuals within a `with` block. After it the previous ones are bound again, without folding them.

        With gradient checkpointing, `backward` must be called inside the block, because it runs the layers again.
        """
        previous_residuals = self._bound_residuals
        previous_scale = self._bound_scale
        previous_factors = {name: (layer.down, layer.up) for name, layer in self.layers.items()}
        try:
            self.bind(residuals, scale=scale)
            yield
        finally:
            for name, (down, up) in previous_factors.items():
                self.layers[name].down = down
                self.layers[name].up = up
            self._bound_residuals = previous_residuals
            self._bound_scale = previous_scale

    def unbound(self) -> AbstractContextManager[None]:
        """Gives the base within a `with` block."""
        return self.bound(None)

    @torch.no_grad()
    def merge(self, residuals: Residuals | Float[Tensor, "n p"], *, scale: float = 1.0) -> None:
        """Adds one person's residuals to the base weights, for a copy that is exported. Nothing is bound afterwards.

        Args:
            residuals: As in `bind`, of n = 1.
            scale: As in `bind`.

        Raises:
            ValueError: theta is not of one person, of another size or not finite.
        """
        if len(residuals) != 1:
            raise ValueError(f"a model can take the weights of 1 person, given {len(residuals)}")
        self.bind(residuals, scale=scale, keep_precision=True)
        for layer in self.layers.values():
            down, up = layer.lora_factors()
            # In float32, so that in half precision only the sum is rounded.
            layer.weight.copy_(layer.weight.float() + up[0].float().mT @ down[0].float())
        self.bind(None)

    def detach(self) -> None:
        """Puts the original layers back. The adapter cannot be used afterwards."""
        for name, (parent, attribute) in self._parents.items():
            original = self._originals[name]
            layer = self.layers[name]
            original.weight, original.bias = layer.weight, layer.bias  # in case that parameters were replaced meanwhile
            setattr(parent, attribute, original)
            layer.siblings = None  # a circle of references, which would keep the layers for a while
        self.layers, self._parents, self._originals = {}, {}, {}


def _working_dtype(weight: Tensor) -> torch.dtype:
    """The precision in which a layer with this weight computes: that of autocast, if it is on."""
    device_type = weight.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):  # meta has no autocast
        return weight.dtype
    return torch.get_autocast_dtype(device_type)


def _check_layers(layers: dict[str, nn.Linear], layout: Layout) -> None:
    """Raises ValueError if a model's target layers are not those of the layout, by name and shape."""
    if any(isinstance(layer, LiDBLinear) for layer in layers.values()):
        raise ValueError("the model has LiDB layers already; detach the adapter that put them there first")
    slot_names = {slot.name for slot in layout.slots}
    differing = sorted(slot_names ^ set(layers))
    if differing:
        owner = "the layout" if differing[0] in slot_names else "the model"
        raise ValueError(
            f"the layout has {len(slot_names)} slots, the model {len(layers)} layers to personalize; "
            f"only {owner} has {differing[0]}"
        )
    for slot in layout.slots:
        layer = layers[slot.name]
        if (layer.in_features, layer.out_features) != (slot.in_features, slot.out_features):
            raise ValueError(
                f"{slot.name} is {layer.in_features} -> {layer.out_features} in the model, "
                f"{slot.in_features} -> {slot.out_features} in the layout"
            )
