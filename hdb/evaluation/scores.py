"""From pictures to scores, person by person.

Four scores are cosines, the paper's. Two are shares of pictures: `prompted`, those that show what the prompt asks for,
and `rank_1`, those whose person is found among a gallery of unseen people.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdb.faceworld.captions import parse
from hdb.faceworld.view import HELD_OUT_STYLES
from hdb.metrics.judges import Judges, Scores
from hdb.metrics.networks import AttributeClassifier

PROMPTED = ("style", "context", "accessory")
PerIdentity = dict[str, np.ndarray]
Asked = list[dict[str, str]]


def what_is_asked(prompts: Sequence[str], *, source: str, classifier: str | None) -> Asked | None:
    """What each prompt asks for; None where they are no captions of faceworld.

    Args:
        source: of the people.
        classifier: that shall judge the answers, if any.

    Raises:
        ValueError: they are none, and a classifier shall judge them.
    """
    if classifier is None and source != "faceworld":
        return None
    try:
        return [parse(prompt)._asdict() for prompt in prompts]
    except ValueError as error:
        if classifier is not None:
            raise ValueError(f"{error}; expected such prompts, or judges.classifier=null") from None
        return None


@dataclass(frozen=True)
class Panel:
    """Who scores the pictures of an evaluation, and what they know beforehand.

    Args:
        prompts: p of them, without the identifier.
        asked: what the p prompts ask for, where that is known: it tells prompts for photos from those for styles.
    """

    judges: Judges
    prompts: Sequence[str]
    asked: Asked | None = None
    classifier: AttributeClassifier | None = None


def score_pictures(
    panel: Panel,
    pictures: Float[Tensor, "n p k 3 h w"],
    references: Float[Tensor, "n v 3 hh ww"],
    *,
    gallery: Float[Tensor, "g d"],
) -> PerIdentity:
    """One number per person and score: k pictures of each of n people for each of p prompts, against v references.

    `others` is the face_rec against everybody else's references: what a picture of just anybody would get. `rank_1/...`
    and `prompted/...` are shares of pictures; the latter leave out styles that no judge was shown.

    Args:
        gallery: what the recognizer sees in photos of g people, the first n those of the pictures.
    """
    num_people, num_prompts, num_pictures = pictures.shape[:3]
    seen, known = (panel.judges.embed_images(images.flatten(0, -4)) for images in (pictures, references))
    # The mean over references of a cosine is the product with their mean, which is shorter than 1.
    known = known._make(vectors.unflatten(0, (num_people, -1)).mean(1) for vectors in known)
    owner = torch.arange(num_people).repeat_interleave(num_prompts * num_pictures)
    texts = panel.judges.clip.embed_texts(list(panel.prompts)).repeat_interleave(num_pictures, 0)
    metrics = Scores(panel.judges)
    metrics.update(seen, known._make(of[owner] for of in known), texts.repeat(num_people, 1), owner)
    scores: PerIdentity = {name: means.numpy() for name, means in metrics.per_person().items()}
    faces = seen.recognizer.unflatten(0, (num_people, -1))
    if num_people > 1:
        everyone = torch.einsum("nid,md->nm", faces, known.recognizer) / faces.shape[1]
        scores["others"] = ((everyone.sum(1) - everyone.diagonal()) / (num_people - 1)).numpy()
    right = recognized(faces, gallery).unflatten(1, (num_prompts, num_pictures))
    for kind, rows in kinds_of_prompts(panel.asked, num=num_prompts).items():
        scores[f"rank_1/{kind}"] = right[:, rows].double().mean((1, 2)).numpy()
    rows = [row for row, labels in enumerate(panel.asked or []) if labels["style"] not in HELD_OUT_STYLES]
    if panel.classifier is not None and rows:
        wanted = [panel.asked[row] for row in rows for _ in range(num_pictures)] * num_people
        for question, right in shown(panel.classifier, pictures[:, rows].flatten(0, 2), wanted).items():
            scores[f"prompted/{question}"] = right.unflatten(0, (num_people, -1)).double().mean(1).numpy()
    return scores


def recognized(generated: Float[Tensor, "n c d"], gallery: Float[Tensor, "g d"]) -> Bool[Tensor, "n c"]:
    """Whether the nearest of g people is the picture's own; one without a face, the zero vector, is nobody's."""
    own = torch.arange(len(generated))[:, None]
    return ((generated @ gallery.T).argmax(-1) == own) & (generated != 0).any(-1)


def kinds_of_prompts(asked: Asked | None, *, num: int) -> dict[str, list[int]]:
    """Which of `num` prompts ask for a photo and which for another style; `all` where nobody knows."""
    if asked is None:
        return {"all": list(range(num))}
    kinds: dict[str, list[int]] = {"photo": [], "styled": []}
    for prompt, labels in enumerate(asked):
        kinds["photo" if labels["style"] == "photo" else "styled"].append(prompt)
    return {kind: rows for kind, rows in kinds.items() if rows}


def shown(
    classifier: AttributeClassifier, pictures: Float[Tensor, "n 3 h w"], wanted: Asked
) -> dict[str, Bool[Tensor, " n"]]:
    """Question -> whether each picture shows what it should."""
    answers, right = classifier.answers(pictures), {}
    for question in PROMPTED:
        pairs = zip(answers[question], wanted, strict=True)
        right[question] = torch.tensor([answer == labels[question] for answer, labels in pairs])
    return right
