"""The oracle: a method that draws the true answer to every prompt, the upper end of every scale."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.faceworld.world import FaceWorld
from hdb.methods.protocol import Photos


class Oracle:
    """Draws people of faceworld as they are; a `Method` without training. Names are the world's numbers of people."""

    name = "oracle"

    def __init__(self, world: FaceWorld) -> None:
        self.world = world

    def personalize(self, photos: Photos) -> "OraclePersonalization":
        return OraclePersonalization(self.world, [int(name) for name in photos.names])


class OraclePersonalization:
    """The personalization of `Oracle`. The base has no part in its pictures."""

    def __init__(self, world: FaceWorld, identities: list[int]) -> None:
        self.world, self.identities = world, identities

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, rows: list[int]) -> "OraclePersonalization":
        return OraclePersonalization(self.world, [self.identities[row] for row in rows])

    def bound(self) -> AbstractContextManager[None]:
        return nullcontext()

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        """Renders the prompts; a seed chooses pose, light and what else a prompt leaves open.

        Raises:
            ValueError: a prompt is no caption of faceworld.
        """
        people = self.identities * (len(prompts) // len(self))
        rendered = [
            self.world.oracle(person, prompt, seed=seed)
            for person, prompt, seed in zip(people, prompts, seeds, strict=True)
        ]
        return torch.stack(rendered)
