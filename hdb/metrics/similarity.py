"""Scores of generated pictures.

Every score is the cosine of two unit vectors; only who embeds what differs. The metrics are thin classes that average
them over pictures or person by person, over processes too.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hdb.metrics.people_mean import means_of_people


@runtime_checkable
class ImageEmbedder(Protocol):
    """What turns images into unit vectors; see `hdb.metrics.embedders`."""

    def embed_images(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class TextImageEmbedder(ImageEmbedder, Protocol):
    """An embedder with a text tower in the same space."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...


def cosines(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    """Cosine of unit vectors, row by row; one row of `second` serves for all. A zero vector (no face) scores 0.

    Raises:
        ValueError: `second` has neither 1 row nor as many as `first`.
    """
    if len(second) not in (1, len(first)):
        raise ValueError(f"{len(first)} generated pictures were given {len(second)} answers; expected as many, or 1")
    return (first * second.to(first.device)).sum(1)


class ImageSimilarity(Metric):
    """Mean similarity of generated pictures and references under one embedder.

    The score of each picture is kept, one number, so that it can be averaged by person, too.

    >>> class Brightness:
    ...     def embed_images(self, images):
    ...         return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)
    >>> metric = ImageSimilarity(Brightness())
    >>> metric.update(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.tensor([7, 8]))
    >>> round(metric.compute().item(), 4), len(metric.per_person())
    (1.0, 2)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    people: list[Tensor]

    def __init__(self, embedder: ImageEmbedder):
        super().__init__()
        # The bound method, not the module: a metric inside a LightningModule must not put a judge into its checkpoints.
        self.embed_images = embedder.embed_images
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("people", [], dist_reduce_fx="cat")

    def update(
        self,
        generated: Float[Tensor, "n 3 h w"] | Float[Tensor, "n d"],
        references: Float[Tensor, "m 3 hh ww"] | Float[Tensor, "m d"],
        people: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Adds pictures and their references, or one for all; either as unit vectors where somebody embedded them.

        Args:
            people: whom each picture shows; without it all count as one person's.
        """
        self.add(self.vectors(generated), self.vectors(references), people)

    def vectors(self, pictures: Float[Tensor, "n 3 h w"] | Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return pictures if pictures.ndim == 2 else self.embed_images(pictures)

    def add(
        self, vectors: Float[Tensor, "n d"], answers: Float[Tensor, "m d"], people: Int[Tensor, " n"] | None
    ) -> None:
        scores = cosines(vectors, answers).to(self.device)
        self.scores.append(scores)
        nobody = torch.zeros(len(scores), dtype=torch.long, device=self.device)
        self.people.append(nobody if people is None else people.to(self.device))

    def compute(self) -> Float[Tensor, ""]:
        """Mean over pictures."""
        return dim_zero_cat(self.scores).double().mean().float()

    def per_person(self) -> Float[Tensor, " k"]:
        """Mean over the pictures of each person, in the order of their numbers."""
        return means_of_people(dim_zero_cat(self.scores).double(), dim_zero_cat(self.people)).float()


class FaceRec(ImageSimilarity):
    """Is it the same person? Under a face recognizer; a picture without a face scores 0."""


class DinoScore(ImageSimilarity):
    """Does it look alike? Under a self-supervised network, which keeps apart subjects of one class."""


class ClipImage(ImageSimilarity):
    """Does it show the like? Under CLIP's image tower (CLIP-I)."""


class ClipText(ImageSimilarity):
    """Is it what was asked for? Under both towers of CLIP (CLIP-T)."""

    def __init__(self, embedder: TextImageEmbedder):
        super().__init__(embedder)
        self.embed_texts = embedder.embed_texts

    def update(
        self,
        generated: Float[Tensor, "n 3 h w"] | Float[Tensor, "n d"],
        prompts: Sequence[str] | Float[Tensor, "n d"],
        people: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Adds pictures and their prompts, without the identifier."""
        answers = prompts if isinstance(prompts, Tensor) else self.embed_texts(prompts)
        self.add(self.vectors(generated), answers, people)
