"""Scores of generated pictures, and how certain their means are.

Every score is the cosine of two unit vectors; only who embeds what differs. The functions give one score per picture;
the metrics are thin classes that average them, over processes too.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


@runtime_checkable
class ImageEmbedder(Protocol):
    """What turns images into unit vectors; see `hdb.metrics.embedders`."""

    def embed_images(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class TextImageEmbedder(ImageEmbedder, Protocol):
    """An embedder with a text tower in the same space."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


def cosines(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    """Cosine of unit vectors, row by row; one row of `second` serves for all. A zero vector (no face) scores 0.

    Raises:
        ValueError: `second` has neither 1 row nor as many as `first`.
    """
    if len(second) not in (1, len(first)):
        raise ValueError(f"{len(first)} generated pictures were given {len(second)} answers; expected as many, or 1")
    return (first * second.to(first.device)).sum(1)


def image_scores(
    embedder: ImageEmbedder, generated: Float[Tensor, "n 3 h w"], references: Float[Tensor, "m 3 hh ww"]
) -> Float[Tensor, " n"]:
    """Similarity of each generated picture to its reference, or to the one reference (m = 1)."""
    return cosines(embedder.embed_images(generated), embedder.embed_images(references))


def text_scores(
    embedder: TextImageEmbedder, generated: Float[Tensor, "n 3 h w"], prompts: Sequence[str]
) -> Float[Tensor, " n"]:
    """Similarity of each generated picture to its prompt; give prompts without the identifier, which no CLIP knows."""
    return cosines(embedder.embed_images(generated), embedder.embed_texts(prompts))


class ImageSimilarity(Metric):
    """Mean similarity of generated pictures and references under one embedder.

    States are sums, so that processes may have seen different numbers of pictures.

    >>> class Brightness:
    ...     def embed_images(self, images):
    ...         return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)
    >>> metric = ImageSimilarity(Brightness())
    >>> metric.update(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
    >>> round(metric.compute().item(), 4)
    1.0
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor
    blank: Tensor

    def __init__(self, embedder: ImageEmbedder):
        super().__init__()
        # The bound method, not the module: a metric inside a LightningModule must not put a judge into its checkpoints.
        self.embed_images = embedder.embed_images
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("blank", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Float[Tensor, "n 3 h w"], references: Float[Tensor, "m 3 hh ww"]) -> None:
        vectors = self.embed_images(generated)
        self.add(cosines(vectors, self.embed_images(references)), vectors)

    def add(self, scores: Float[Tensor, " n"], vectors: Float[Tensor, "n d"]) -> None:
        self.total += scores.double().sum().to(self.total.device)
        self.count += len(scores)
        self.blank += (vectors == 0).all(1).sum().to(self.blank.device)

    def compute(self) -> Float[Tensor, ""]:
        return (self.total / self.count).float()


class FaceRec(ImageSimilarity):
    """Is it the same person? Under a face recognizer; a picture without a face scores 0."""

    def share_without_face(self) -> float:
        """Share of the generated pictures in which this process found no face."""
        return (self.blank / self.count).item()


class DinoScore(ImageSimilarity):
    """Does it look alike? Under a self-supervised network, which keeps apart subjects of one class."""


class ClipImage(ImageSimilarity):
    """Does it show the like? Under CLIP's image tower (CLIP-I)."""


class ClipText(ImageSimilarity):
    """Is it what was asked for? Under both towers of CLIP (CLIP-T)."""

    def __init__(self, embedder: TextImageEmbedder):
        super().__init__(embedder)
        self.embed_texts = embedder.embed_texts

    def update(self, generated: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> None:
        """Adds pictures and their prompts, without the identifier."""
        vectors = self.embed_images(generated)
        self.add(cosines(vectors, self.embed_texts(prompts)), vectors)


def bootstrap_ci(
    per_identity: Sequence[float] | np.ndarray, *, num_samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and percentile bootstrap interval over identities, the unit that is independent: pictures of one are not.

    Args:
        per_identity: one number per identity, the mean over its prompts and pictures.

    >>> bootstrap_ci([0.5, 0.5, 0.5])
    Interval(mean=0.5, low=0.5, high=0.5)

    Raises:
        ValueError: no identity, or a number that is not finite.
    """
    scores = np.asarray(per_identity, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"an interval needs finite numbers, one per identity, but got shape {scores.shape}: {scores}")
    draws = np.random.default_rng(seed).integers(len(scores), size=(num_samples, len(scores)))
    low, high = np.quantile(scores[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(scores.mean()), float(low), float(high))


def paired_ci(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, **options: int) -> Interval:
    """The difference first - second, identity by identity: far sharper than comparing two intervals.

    Args:
        options: of `bootstrap_ci`.

    Raises:
        ValueError: different numbers of identities.
    """
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs the same identities, but got {len(first)} and {len(second)}")
    return bootstrap_ci(np.asarray(first, np.float64) - np.asarray(second, np.float64), **options)


def normalized(score: float, *, unpersonalized: float, oracle: float) -> float | None:
    """Where a score lies between knowing nothing (0) and the true answer (1); None where those two are the same.

    >>> normalized(0.5, unpersonalized=0.25, oracle=0.75)
    0.5
    """
    gap = oracle - unpersonalized
    return None if abs(gap) < 1e-9 else (score - unpersonalized) / gap
