"""Oracle: the true answer, which only a drawn world has; the upper end of every scale."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.sampling import SamplingOptions
from hdb.faceworld.world import FaceWorld
from hdb.methods.protocol import Photos


class Oracle:
    """Knows the people of faceworld by their names, which are their numbers."""

    name = "oracle"

    def __init__(self, world: FaceWorld) -> None:
        self.world = world

    def personalize(self, photos: Photos) -> "TruePeople":
        return TruePeople(self.world, [int(name) for name in photos.names])


class TruePeople:
    """People of faceworld as they are. The base has no part in their pictures."""

    def __init__(self, world: FaceWorld, identities: list[int]) -> None:
        self.world, self.identities = world, identities

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, rows: list[int]) -> "TruePeople":
        return TruePeople(self.world, [self.identities[row] for row in rows])

    def bound(self) -> AbstractContextManager[None]:
        return nullcontext()

    def pictures(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions
    ) -> Float[Tensor, "m 3 h w"]:
        """Rendered; a seed chooses pose, light and what else a prompt leaves open."""
        people = self.identities * (len(prompts) // len(self))
        asked = zip(people, prompts, seeds, strict=True)
        return torch.stack([self.world.oracle(person, prompt, seed=seed) for person, prompt, seed in asked])
