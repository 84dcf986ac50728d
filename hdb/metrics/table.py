"""The list of metrics, in a file without torch so that commands check their settings at once.

A new metric is a line in `METRICS`. Scores, columns of tables, keys at W&B and the choices of `best_metric` follow from
it. If no judge embeds as the metric needs it, its network is a field of `JudgeOptions` and a line in `EMBEDDERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class MetricEntry:
    """A metric: the mean over pictures of a score that compares two embeddings.

    Args:
        judge: the network that embeds, by its name in `EMBEDDERS`.
        compared_with: what a picture is compared with, embedded by the same network.
        score: compares embeddings row by row, (n, d), (m, d) -> (n,); None is their cosine.
    """

    judge: str
    compared_with: Literal["references", "prompts"] = "references"
    score: Callable[[Any, Any], Any] | None = None
    higher_is_better: bool = True

    @property
    def mode(self) -> str:
        """Lightning's word for what is better: "max" or "min"."""
        return "max" if self.higher_is_better else "min"


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
