"""The interfaces of methods: photos in, a personalization out, which draws pictures and is saved to files."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.options import SamplingOptions


@dataclass(frozen=True)
class Photos:
    """Face crops of n people, in [0, 1].

    Methods that take one photo of a person use `images`, those that take several use `views`.

    Args:
        images: One photo of each person.
        more: Further photos, the same number of each person.
        sides: Of all k photos of each person in px, before they were resized, the one in `images` first. None if not
            known.
    """

    names: list[str]
    images: Float[Tensor, "n 3 h w"]
    more: Float[Tensor, "n v 3 h w"] | None = None
    sides: Int[Tensor, "n k"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> "Photos":
        more = None if self.more is None else self.more[rows]
        return Photos(self.names[rows], self.images[rows], more, None if self.sides is None else self.sides[rows])

    @property
    def views(self) -> Float[Tensor, "n v 3 h w"]:
        """All photos of each person, the one in `images` first."""
        first = self.images[:, None]
        return first if self.more is None else torch.cat([first, self.more], dim=1)


@runtime_checkable
class Personalization(Protocol):
    """What a method learned of n people, with which the base draws them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int]) -> "Personalization":
        """Some of the people, in the given order."""
        ...

    def bound(self) -> AbstractContextManager[None]:
        """Personalizes the base within a `with` block and restores its previous state afterwards.

        Raises:
            ValueError: Several people, with a method that changes the base itself.
        """
        ...

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        """Draws one picture per prompt, on the CPU; prompt i shows person i mod n.

        Args:
            seeds: Of the initial noise, one per prompt.
            callback_on_step_end: Called with the number of each finished sampling step, from 1. What draws without
                steps does not call it.
        """
        ...


@runtime_checkable
class StoredPersonalization(Personalization, Protocol):
    """A personalization that is saved, with one file per person.

    Attributes:
        kind: Stored in the header of the files, which is read to tell them apart.
    """

    kind: str

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        """Writes one file per person, each atomically.

        Args:
            about: Provenance of each person: `source`, `consent`.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """A way to personalize the base: a row of the table."""

    name: str

    def personalize(self, photos: Photos) -> Personalization:
        """Personalizes all people. Each ends as if alone."""
        ...


@runtime_checkable
class StoringMethod(Method, Protocol):
    """A method that learns something of each person, which takes time and is saved to files.

    Attributes:
        max_batch_size: The most people that are personalized together; None is any number.
    """

    max_batch_size: int | None

    def personalize(self, photos: Photos) -> StoredPersonalization: ...

    def load(self, paths: Sequence[Path]) -> StoredPersonalization:
        """Reads files that `save` wrote.

        Raises:
            ValueError: A file is missing, damaged, of another method or for another base.
        """
        ...
