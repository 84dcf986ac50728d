"""From pictures to scores, person by person, each picture as it comes.

Four scores are cosines, the paper's. Two are shares of pictures: `prompted`, those that show what the prompt asks for,
and `rank_1`, those whose person is found among a gallery of unseen people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdb.evaluation.people import Unseen
from hdb.evaluation.pictures import Batch
from hdb.metrics.judges import Embeddings, Judges, Scores
from hdb.metrics.networks import AttributeClassifier
from hdb.metrics.people_mean import mean_per_person

PROMPTED = ("style", "context", "accessory")
PersonScores = dict[str, np.ndarray]


@dataclass(frozen=True)
class ExpectedAttributes:
    """What the pictures of each prompt should show, in the words of an attribute classifier.

    Args:
        per_prompt: question -> answer for each prompt, as {"style": "oil", "context": "snow", "accessory": "none"}.
        unjudged_styles: the classifier was not trained on these; it is not asked about pictures in them.
    """

    per_prompt: Sequence[dict[str, str]]
    unjudged_styles: Sequence[str] = ()

    def is_judged(self, prompt: int) -> bool:
        """Whether the classifier knows the style that a prompt asks for."""
        return self.per_prompt[prompt]["style"] not in self.unjudged_styles


@dataclass(frozen=True)
class Panel:
    """Who scores the pictures of an evaluation, and what they know beforehand.

    Args:
        prompts: p of them, without the identifier.
        expected: what the p prompts ask for, where that is known: it tells prompts for photos from those for styles.
    """

    judges: Judges
    prompts: Sequence[str]
    expected: ExpectedAttributes | None = None
    classifier: AttributeClassifier | None = None


class Answers:
    """What the pictures of n people are compared with: references, prompts, a gallery, embedded once for all methods.

    Args:
        people: of whom there are v references each.
    """

    def __init__(self, panel: Panel, people: Unseen) -> None:
        judges, self.num_people = panel.judges, len(people.names)
        seen = judges.embed_images(people.references.flatten(0, 1))
        # The mean over references of a cosine is the product with their mean, which is shorter than 1.
        self.known: Embeddings = {
            name: vectors.unflatten(0, (self.num_people, -1)).mean(1) for name, vectors in seen.items()
        }
        self.texts: Embeddings = judges.embed_prompts(panel.prompts)
        self.gallery: Float[Tensor, "g d"] = judges["recognizer"].embed_images(people.gallery)


class PictureScores:
    """One method's scores: a number per picture and score is kept, and no picture.

    `others` is the face_rec against everybody else's references: what a picture of just anybody would get. `rank_1/...`
    and `prompted/...` are shares of pictures; the latter leave out styles that no judge was shown.
    """

    def __init__(self, panel: Panel, answers: Answers) -> None:
        self.panel, self.answers, self.four = panel, answers, Scores(panel.judges)
        self.values: dict[str, list[Tensor]] = {}  # beside the four: of some pictures each, and whose they are
        self.owners: dict[str, list[Tensor]] = {}
        self.kinds = kinds_of_prompts(panel.expected, num=len(panel.prompts))

    def update(self, pictures: Float[Tensor, "m 3 h w"], *, person: int, prompts: Sequence[int]) -> None:
        """Adds pictures of one person, each embedded once per network.

        Args:
            prompts: number of the prompt of each.
        """
        answers, seen = self.answers, self.panel.judges.embed_images(pictures)
        owner = torch.full((len(pictures),), person)
        known, rows = {name: vectors[[person]] for name, vectors in answers.known.items()}, list(prompts)
        texts = {name: vectors[rows] for name, vectors in answers.texts.items()}
        self.four.update(seen, known, texts, owner)
        faces = seen["recognizer"]
        if answers.num_people > 1:
            others = (answers.known["recognizer"].sum(0) - known["recognizer"][0]) / (answers.num_people - 1)
            self._add("others", faces @ others, owner)
        right = recognized(faces, answers.gallery, person=person)
        for kind, members in self.kinds.items():
            self._add(f"rank_1/{kind}", right, owner, where=[prompt in members for prompt in prompts])
        if self.panel.classifier is not None:
            self._add_shown(pictures, rows, owner)

    def per_person(self) -> PersonScores:
        """Name -> the mean over each person's pictures."""
        four = {name: means.double() for name, means in self.four.per_person().items()}
        beside = {
            name: mean_per_person(torch.cat(of), torch.cat(self.owners[name])) for name, of in self.values.items()
        }
        return {name: means.numpy() for name, means in (four | beside).items()}

    def _add_shown(self, pictures: Float[Tensor, "m 3 h w"], prompts: list[int], owner: Tensor) -> None:
        expected = self.panel.expected
        judged = [expected.is_judged(prompt) for prompt in prompts]
        if any(judged):
            labels = [expected.per_prompt[prompt] for prompt in prompts]
            for question, right in shown(self.panel.classifier, pictures, labels).items():
                self._add(f"prompted/{question}", right, owner, where=judged)

    def _add(self, name: str, values: Tensor, owner: Tensor, *, where: list[bool] | None = None) -> None:
        rows = torch.tensor([True] * len(values) if where is None else where)
        if rows.any():
            self.values.setdefault(name, []).append(values.cpu()[rows].double())
            self.owners.setdefault(name, []).append(owner[rows])


def scored(batches: Iterable[Batch], panel: Panel, answers: Answers) -> PersonScores:
    """The scores of each person by one method, whose pictures are let go as soon as they are embedded."""
    scores = PictureScores(panel, answers)
    for person, prompts, pictures in batches:
        scores.update(pictures, person=person, prompts=prompts)
    return scores.per_person()


def recognized(generated: Float[Tensor, "c d"], gallery: Float[Tensor, "g d"], *, person: int) -> Bool[Tensor, " c"]:
    """Whether the nearest of g people is the pictures' own; one without a face, the zero vector, is nobody's."""
    return ((generated @ gallery.T).argmax(-1) == person) & (generated != 0).any(-1)


def kinds_of_prompts(expected: ExpectedAttributes | None, *, num: int) -> dict[str, list[int]]:
    """Which of `num` prompts ask for a photo and which for another style; `all` where nobody knows."""
    if expected is None:
        return {"all": list(range(num))}
    kinds: dict[str, list[int]] = {"photo": [], "styled": []}
    for prompt, labels in enumerate(expected.per_prompt):
        kinds["photo" if labels["style"] == "photo" else "styled"].append(prompt)
    return {kind: rows for kind, rows in kinds.items() if rows}


def shown(
    classifier: AttributeClassifier, pictures: Float[Tensor, "n 3 h w"], expected: Sequence[dict[str, str]]
) -> dict[str, Bool[Tensor, " n"]]:
    """Question -> whether each picture shows what it should."""
    answers = classifier.predict(pictures)
    return {
        question: torch.tensor([a == labels[question] for a, labels in zip(answers[question], expected, strict=True)])
        for question in PROMPTED
    }
