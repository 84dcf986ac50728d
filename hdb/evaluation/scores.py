"""From pictures to scores, person by person. A picture is scored as soon as it is there, and then forgotten.

Beside the metrics of the list two scores are shares of pictures: `prompted`, those that show what the prompt asks for,
and `rank_1`, those whose person is recognized among a gallery of unseen people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import PictureBatch
from hdb.metrics.judges import Embeddings, Judges, Scores
from hdb.metrics.networks import AttributeClassifier
from hdb.metrics.people_mean import mean_per_person

PROMPTED = ("style", "context", "accessory")
RECOGNIZER = "recognizer"  # the judge that rank_1 asks
PersonScores = dict[str, np.ndarray]  # score -> its mean over the pictures of each person


@dataclass(frozen=True)
class ExpectedAttributes:
    """What the pictures of each prompt should show, in the labels of an attribute classifier.

    Args:
        per_prompt: attribute -> label for each prompt, as {"style": "oil", "context": "snow", "accessory": "none"}.
        unjudged_styles: styles that the classifier was not trained on; pictures in these are not judged.
    """

    per_prompt: Sequence[dict[str, str]]
    unjudged_styles: Sequence[str] = ()

    def is_judged(self, prompt: int) -> bool:
        """Whether the classifier knows the style that a prompt asks for."""
        return self.per_prompt[prompt]["style"] not in self.unjudged_styles


@dataclass(frozen=True)
class Scorer:
    """Scores the pictures of an evaluation.

    Args:
        prompts: p of them, without the identifier.
        expected: what the p prompts ask for, if that is known; it tells prompts for photos from those for styles.
        classifier: says whether pictures show what is expected.
    """

    judges: Judges
    prompts: Sequence[str]
    expected: ExpectedAttributes | None = None
    classifier: AttributeClassifier | None = None

    def embed_references(self, people: UnseenPeople) -> "ReferenceEmbeddings":
        """Embeds what the pictures of all methods are compared with."""
        num_people = len(people.names)
        embeddings = self.judges.embed_images(people.references.flatten(0, 1))
        # The mean cosine with several references is the product with the mean of their vectors, shorter than 1.
        references = {name: vectors.unflatten(0, (num_people, -1)).mean(1) for name, vectors in embeddings.items()}
        prompts = self.judges.embed_prompts(self.prompts)
        gallery = self.judges[RECOGNIZER].embed_images(people.gallery)
        return ReferenceEmbeddings(references, prompts, gallery)

    def score(self, batches: Iterable[PictureBatch], references: "ReferenceEmbeddings") -> PersonScores:
        """The scores of each person by one method."""
        scores = MethodScores(self, references)
        for batch in batches:
            scores.update(batch)
        return scores.per_person()


@dataclass(frozen=True)
class ReferenceEmbeddings:
    """What the pictures of n people are compared with.

    Args:
        references: judge -> the mean embedding of each person's references (n, d).
        prompts: judge -> the embedding of each prompt (p, d).
        gallery: under the recognizer; the first n rows are the n people's.
    """

    references: Embeddings
    prompts: Embeddings
    gallery: Float[Tensor, "g d"]

    def mean_of_others(self, person: int) -> Float[Tensor, " d"] | None:
        """The mean of everybody else's references under the recognizer; None if there is nobody else."""
        vectors = self.references[RECOGNIZER]
        if len(vectors) == 1:
            return None
        return (vectors.sum(0) - vectors[person]) / (len(vectors) - 1)


class MethodScores:
    """The scores of one method's pictures. One number is kept for each picture and score, and no picture.

    Beside the metrics these are `others`, the face_rec with everybody else's references, which a picture of just
    anybody would get; and the shares `rank_1/...` and `prompted/...`.
    """

    def __init__(self, scorer: Scorer, references: ReferenceEmbeddings) -> None:
        self.scorer = scorer
        self.references = references
        self.metrics = Scores(scorer.judges)
        self.kinds = kinds_of_prompts(scorer.expected, num_prompts=len(scorer.prompts))
        self._values: dict[str, list[Tensor]] = {}  # other scores, each of some pictures
        self._people: dict[str, list[Tensor]] = {}  # whom these pictures show

    def update(self, batch: PictureBatch) -> None:
        """Adds pictures of one person, each embedded once per judge."""
        person, prompts = batch.person, batch.prompts
        people = torch.full((len(prompts),), person)
        embeddings = self.scorer.judges.embed_images(batch.pictures)
        references = {name: vectors[[person]] for name, vectors in self.references.references.items()}
        texts = {name: vectors[prompts] for name, vectors in self.references.prompts.items()}
        self.metrics.update(embeddings, references, texts, people)

        faces = embeddings[RECOGNIZER]
        others = self.references.mean_of_others(person)
        if others is not None:
            self._add("others", faces @ others, people)
        recognized = is_nearest(faces, self.references.gallery, person=person)
        for kind, members in self.kinds.items():
            self._add(f"rank_1/{kind}", recognized, people, rows=[prompt in members for prompt in prompts])
        if self.scorer.classifier is not None:
            self._add_prompted(batch, people)

    def per_person(self) -> PersonScores:
        """Score -> its mean over each person's pictures."""
        means = {name: values.double() for name, values in self.metrics.per_person().items()}
        for name, values in self._values.items():
            means[name] = mean_per_person(torch.cat(values), torch.cat(self._people[name]))
        return {name: values.numpy() for name, values in means.items()}

    def _add_prompted(self, batch: PictureBatch, people: Tensor) -> None:
        expected = self.scorer.expected
        rows = [expected.is_judged(prompt) for prompt in batch.prompts]
        if not any(rows):
            return
        predicted = self.scorer.classifier.predict(batch.pictures)
        for attribute in PROMPTED:
            labels = [expected.per_prompt[prompt][attribute] for prompt in batch.prompts]
            right = torch.tensor([a == b for a, b in zip(predicted[attribute], labels, strict=True)])
            self._add(f"prompted/{attribute}", right, people, rows=rows)

    def _add(self, name: str, values: Tensor, people: Tensor, *, rows: list[bool] | None = None) -> None:
        mask = torch.ones(len(values), dtype=torch.bool) if rows is None else torch.tensor(rows)
        if mask.any():
            self._values.setdefault(name, []).append(values.cpu()[mask].double())
            self._people.setdefault(name, []).append(people[mask])


def is_nearest(generated: Float[Tensor, "c d"], gallery: Float[Tensor, "g d"], *, person: int) -> Bool[Tensor, " c"]:
    """Whether a person of the gallery is nearest to each picture; never to one without a face, the zero vector."""
    return ((generated @ gallery.T).argmax(-1) == person) & (generated != 0).any(-1)


def kinds_of_prompts(expected: ExpectedAttributes | None, *, num_prompts: int) -> dict[str, list[int]]:
    """Kind -> the prompts that ask for a photo, or for another style; `all` where that is not known."""
    if expected is None:
        return {"all": list(range(num_prompts))}
    kinds: dict[str, list[int]] = {"photo": [], "styled": []}
    for prompt, labels in enumerate(expected.per_prompt):
        kinds["photo" if labels["style"] == "photo" else "styled"].append(prompt)
    return {kind: prompts for kind, prompts in kinds.items() if prompts}
