"""Unpersonalized: the base as it is, which knows nobody; a control."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.methods.protocol import Photos


class Unpersonalized:
    """Looks at no photo."""

    name = "unpersonalized"

    def __init__(self, personalized: PersonalizedDiffusion) -> None:
        self.personalized = personalized

    def personalize(self, photos: Photos) -> "Nobody":
        return Nobody(self.personalized, num_people=len(photos))


class Nobody:
    """People of whom the base learned nothing: all alike."""

    def __init__(self, personalized: PersonalizedDiffusion, *, num_people: int) -> None:
        self.personalized, self.num_people = personalized, num_people

    def __len__(self) -> int:
        return self.num_people

    def __getitem__(self, rows: list[int]) -> "Nobody":
        return Nobody(self.personalized, num_people=len(rows))

    def bound(self) -> AbstractContextManager[None]:
        return self.personalized.bound(None)

    def pictures(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions
    ) -> Float[Tensor, "m 3 h w"]:
        return self.personalized.pictures(None, prompts, seeds=seeds, sampling=sampling)
