"""Judges: the frozen networks behind the metrics, and the scores of pictures under all of them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.metrics.embedders import EMBEDDERS
from hdb.metrics.networks import AttributeClassifier
from hdb.metrics.similarity import EmbeddingMetric, ImageEmbedder, cosine_similarity
from hdb.metrics.table import METRICS, JudgeOptions

# Name of a judge -> its unit vectors (n, d) of the same n pictures or prompts.
Embeddings = Mapping[str, Float[Tensor, "_ _"]]


class Judges(dict[str, ImageEmbedder]):
    """The networks that the metrics of the list need, by name."""

    @classmethod
    def from_options(cls, options: JudgeOptions, *, device: torch.device | str = "cpu") -> "Judges":
        """Loads each from its folder, or downloads it by its name.

        Raises:
            ValueError: there is no such network.
        """
        names = dict.fromkeys(entry.judge for entry in METRICS.values())
        return cls({name: EMBEDDERS[name].load(getattr(options, name)).to(device) for name in names})

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Embeddings:
        """The embeddings of pictures under each judge."""
        return {name: judge.embed_images(images) for name, judge in self.items()}

    def embed_prompts(self, prompts: Sequence[str]) -> Embeddings:
        """The embeddings of prompts, without the identifier, under the judges of metrics that compare with them."""
        names = dict.fromkeys(entry.judge for entry in METRICS.values() if entry.compared_with == "prompts")
        return {name: self[name].embed_texts(list(prompts)) for name in names}


class Scores:
    """Every metric of the list over the same pictures, each of which is embedded once per judge."""

    def __init__(self, judges: Judges) -> None:
        self.judges = judges
        self.metrics = {name: EmbeddingMetric(entry.score or cosine_similarity) for name, entry in METRICS.items()}

    def update(
        self,
        generated: Float[Tensor, "n 3 h w"] | Embeddings,
        references: Float[Tensor, "m 3 hh ww"] | Embeddings,
        prompts: Sequence[str] | Embeddings,
        people: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Adds pictures, or their embeddings.

        Args:
            references: one for each picture, or m = 1 for all.
            prompts: one for each picture, without the identifier.
            people: number of the person each picture shows.
        """
        if isinstance(generated, Tensor):
            generated = self.judges.embed_images(generated)
        if isinstance(references, Tensor):
            references = self.judges.embed_images(references)
        if not isinstance(prompts, Mapping):
            prompts = self.judges.embed_prompts(prompts)
        for name, metric in self.metrics.items():
            entry = METRICS[name]
            others = references if entry.compared_with == "references" else prompts
            metric.update(generated[entry.judge], others[entry.judge], people)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Metric -> mean over the pictures of all processes."""
        return {name: metric.compute() for name, metric in self.metrics.items()}

    def per_person(self) -> dict[str, Float[Tensor, " k"]]:
        """Metric -> mean of each of k people, in the order of their numbers."""
        return {name: metric.per_person() for name, metric in self.metrics.items()}

    def reset(self) -> None:
        """Forgets all pictures."""
        for metric in self.metrics.values():
            metric.reset()


def load_classifier(folder: str | None, *, device: torch.device | str = "cpu") -> AttributeClassifier | None:
    """The network that says what a picture shows, where prompts are captions of faceworld; None for None."""
    return None if folder is None else AttributeClassifier.from_folder(folder).to(device)
