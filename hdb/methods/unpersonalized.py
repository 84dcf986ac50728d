"""Unpersonalized: the base as it is. A control that learns nothing."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.methods.protocol import Photos


class Unpersonalized:
    """Uses no photo."""

    name = "unpersonalized"

    def __init__(self, personalized: PersonalizedDiffusion) -> None:
        self.personalized = personalized

    def personalize(self, photos: Photos) -> "NoPersonalization":
        return NoPersonalization(self.personalized, num_people=len(photos))


class NoPersonalization:
    """n people of whom nothing was learned. The base draws them all alike."""

    def __init__(self, personalized: PersonalizedDiffusion, *, num_people: int) -> None:
        self.personalized = personalized
        self.num_people = num_people

    def __len__(self) -> int:
        return self.num_people

    def __getitem__(self, rows: list[int]) -> "NoPersonalization":
        return NoPersonalization(self.personalized, num_people=len(rows))

    def bound(self) -> AbstractContextManager[None]:
        return self.personalized.bound(None)

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        return self.personalized.pictures(
            None, prompts, seeds=seeds, sampling=sampling, callback_on_step_end=callback_on_step_end
        )
