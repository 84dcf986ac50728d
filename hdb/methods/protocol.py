"""What a method is: photos in, a personalization out, which the base is bound to and which files keep."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.sampling import SamplingOptions


@dataclass(frozen=True)
class Photos:
    """One photo of each of n people, face crops in [0, 1]; `more` are further ones, as many of everybody.

    A method that takes one photo takes `images`, one that takes several `views`.
    """

    names: list[str]
    images: Float[Tensor, "n 3 h w"]
    more: Float[Tensor, "n v 3 h w"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> "Photos":
        return Photos(self.names[rows], self.images[rows], None if self.more is None else self.more[rows])

    @property
    def views(self) -> Float[Tensor, "n v 3 h w"]:
        """All photos of each, the first one first."""
        first = self.images[:, None]
        return first if self.more is None else torch.cat([first, self.more], dim=1)


@runtime_checkable
class Personalization(Protocol):
    """What a method made of n people: the base draws them with it, whatever it is within."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int]) -> "Personalization":
        """Some of the people, in the order asked for."""
        ...

    def bound(self) -> AbstractContextManager[None]:
        """The base is personalized within a `with` block, where pictures may be drawn, and as it was before behind it.

        Raises:
            ValueError: several people, of a method that changes the base itself.
        """
        ...

    def pictures(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions
    ) -> Float[Tensor, "m 3 h w"]:
        """One picture per prompt, on the CPU; prompt i shows person i mod n, from the starting noise of its seed."""
        ...


@runtime_checkable
class StoredPersonalization(Personalization, Protocol):
    """One that files keep, a file for each person.

    `stores` says in words what is in a file: theta, one vector, a whole UNet; `num_bytes` how large that is. `kind` is
    the word for it in the file's header, by which `kinds.read_people` finds the class that reads it.
    """

    kind: str
    stores: str

    @property
    def num_bytes(self) -> int: ...

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        """Writes each person's file, whole or not at all.

        Args:
            about: provenance of each: `source`, `consent`.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """A way from photos to people that the base can draw; a row of the table."""

    name: str

    def personalize(self, photos: Photos) -> Personalization:
        """All of them together, where the method can, each as if alone."""
        ...


@runtime_checkable
class StoringMethod(Method, Protocol):
    """A method that makes something of each person: it costs time and a file, and comes back from the files.

    `at_once` is the most people it takes together; None is any number.
    """

    at_once: int | None

    def personalize(self, photos: Photos) -> StoredPersonalization: ...

    def load(self, paths: Sequence[Path]) -> StoredPersonalization:
        """What `save` wrote, for this base.

        Raises:
            ValueError: a file is missing, damaged, of another method or for another base.
        """
        ...
