"""Cosine similarity of embeddings, and the metric that averages such a score over pictures or person by person."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hdb.metrics.people_mean import mean_per_person

# Compares the embeddings of n pictures with n others, or with one that serves for all: (n, d), (m, d) -> (n,).
Score = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class ImageEmbedder(Protocol):
    """A network that embeds pictures (n, 3, h, w) in [0, 1] as unit vectors (n, d); see `hdb.metrics.embedders`."""

    def embed_images(self, images: Tensor) -> Tensor: ...


def cosine_similarity(generated: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    """Cosine of unit vectors, row by row. A zero vector (no face was found) scores 0.

    Args:
        others: m = n of them, or m = 1 for all.

    Raises:
        ValueError: m is neither n nor 1.
    """
    if len(others) not in (1, len(generated)):
        raise ValueError(f"{len(generated)} generated pictures and {len(others)} references: expected as many, or 1")
    return (generated * others.to(generated.device)).sum(1)


class EmbeddingMetric(Metric):
    """Mean over pictures of a score that compares their embeddings with those of references or prompts.

    The score of each picture is kept, one number, so that it can be averaged person by person as well.

    >>> metric = EmbeddingMetric()
    >>> metric.update(torch.eye(2), torch.eye(2)[:1], torch.tensor([7, 8]))
    >>> metric.compute(), metric.per_person()
    (tensor(0.5000), tensor([1., 0.]))
    """

    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    people: list[Tensor]

    def __init__(self, score: Score = cosine_similarity) -> None:
        super().__init__()
        self.score = score
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("people", [], dist_reduce_fx="cat")

    def update(
        self,
        generated: Float[Tensor, "n d"],
        others: Float[Tensor, "m d"],
        people: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Adds embeddings of pictures.

        Args:
            others: embeddings of their references or prompts, or one for all.
            people: number of the person each picture shows; None counts all as one person's.
        """
        scores = self.score(generated, others).to(self.device)
        if people is None:
            people = torch.zeros(len(scores), dtype=torch.long)
        self.scores.append(scores)
        self.people.append(people.to(self.device))

    def compute(self) -> Float[Tensor, ""]:
        """Mean over pictures."""
        return dim_zero_cat(self.scores).double().mean().float()

    def per_person(self) -> Float[Tensor, " k"]:
        """Mean over the pictures of each person, in the order of their numbers."""
        return mean_per_person(dim_zero_cat(self.scores).double(), dim_zero_cat(self.people)).float()
