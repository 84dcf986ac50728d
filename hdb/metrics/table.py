"""The list of metrics, and the networks that embed pictures and prompts for them.

A new metric is a line in `METRICS`. Scores, table columns, the keys at W&B and the choices of `best_metric` follow from
it. If no judge embeds as the metric needs it, its network is a field of `JudgeOptions` and a line in `EMBEDDERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hdb.metrics.embedders import (
    ClipEmbedder,
    TimmEmbedder,
    load_recognizer,
    refuse_missing_folder,
    refuse_missing_recognizer,
)
from hdb.metrics.similarity import ImageEmbedder, Score, cosine_similarity


@dataclass(frozen=True)
class MetricEntry:
    """A metric: the mean over pictures of a score that compares two embeddings.

    Args:
        judge: the network that embeds, by its name in `EMBEDDERS`.
        compared_with: what a picture is compared with, embedded by the same network.
        score: compares embeddings row by row.
    """

    judge: str
    compared_with: Literal["references", "prompts"] = "references"
    score: Score = cosine_similarity
    higher_is_better: bool = True


# By the names that results.json, tables and W&B have for them.
METRICS: dict[str, MetricEntry] = {
    "face_rec": MetricEntry("recognizer"),  # the same person; a picture without a face scores 0
    "dino": MetricEntry("dino"),  # the same look, by a self-supervised network that tells subjects of one class apart
    "clip_i": MetricEntry("clip"),  # the same content
    "clip_t": MetricEntry("clip", compared_with="prompts"),  # what the prompt asks for
}


@dataclass
class JudgeOptions:
    """Networks that score pictures: names of published ones for photos, folders for faceworld's own."""

    recognizer: str = "vggface2"
    dino: str = "vit_small_patch16_224.dino"
    clip: str = "openai/clip-vit-base-patch32"

    def refuse_missing(self) -> None:
        """Raises ValueError if one of them is a folder and not there: before something large is read for nothing."""
        for name, embedder in EMBEDDERS.items():
            embedder.refuse_missing(getattr(self, name))


class EmbedderEntry(NamedTuple):
    """How a judge is loaded from a name or a folder, and how a missing folder is refused before that."""

    load: Callable[[str], ImageEmbedder]
    refuse_missing: Callable[[str], None]


# By the fields of `JudgeOptions`.
EMBEDDERS: dict[str, EmbedderEntry] = {
    "recognizer": EmbedderEntry(load_recognizer, refuse_missing_recognizer),
    "dino": EmbedderEntry(TimmEmbedder.dino, refuse_missing_folder),
    "clip": EmbedderEntry(ClipEmbedder.from_pretrained, refuse_missing_folder),
}
