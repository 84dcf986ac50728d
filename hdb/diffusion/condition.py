"""TextCondition: what a base makes of prompts, and what its denoiser reads beside latents and timesteps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextCondition:
    """What a base makes of n prompts. Only the base's family reads its parts; all others carry it as it is.

    Args:
        embeds: The text embeddings of each token.
        pooled: One text embedding per prompt, for families that have it.
        time_ids: Original size, crop and target size of the picture in pixels, for families that have them.

    >>> condition = TextCondition(torch.zeros(2, 3, 4))
    >>> len(condition), len(condition.tile(3)), len(TextCondition.cat([condition, condition[:1]]))
    (2, 6, 3)
    """

    embeds: Float[Tensor, "n l d"]
    pooled: Float[Tensor, "n p"] | None = None
    time_ids: Float[Tensor, "n 6"] | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> TextCondition:
        """The conditions of some of the prompts, in the order given."""
        return self._map(lambda tensor: tensor[rows])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name, as `from_tensors` takes them."""
        parts = {"embeds": self.embeds, "pooled": self.pooled, "time_ids": self.time_ids}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TextCondition:
        """The condition of which these are the parts; other tensors may lie beside them."""
        return cls(tensors["embeds"], tensors.get("pooled"), tensors.get("time_ids"))

    def tile(self, num: int) -> TextCondition:
        """All prompts `num` times: a, b, a, b."""
        return self._map(lambda tensor: tensor.repeat(num, *[1] * (tensor.ndim - 1)))

    def repeat_interleave(self, num: int) -> TextCondition:
        """Each prompt `num` times: a, a, b, b."""
        return self._map(lambda tensor: tensor.repeat_interleave(num, 0))

    def to(self, target: torch.device | torch.dtype) -> TextCondition:
        """The same condition on another device or in another precision."""
        return self._map(lambda tensor: tensor.to(target))

    @staticmethod
    def cat(conditions: Sequence[TextCondition]) -> TextCondition:
        """Concatenates the prompts of several conditions of one family."""
        first = conditions[0]
        return TextCondition(
            torch.cat([condition.embeds for condition in conditions]),
            None if first.pooled is None else torch.cat([condition.pooled for condition in conditions]),
            None if first.time_ids is None else torch.cat([condition.time_ids for condition in conditions]),
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> TextCondition:
        return TextCondition(
            change(self.embeds),
            None if self.pooled is None else change(self.pooled),
            None if self.time_ids is None else change(self.time_ids),
        )
