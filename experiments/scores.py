"""From pictures to the tables: scores per method, their intervals over people, and where they lie on the scale.

Four scores are cosines, the paper's. Two are shares of pictures: `prompted`, those that show what the prompt asks for,
and `rank_1`, those whose person is found among a gallery of unseen people.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from experiments.config import Evaluate
from experiments.networks import Embedders
from hdb.faceworld.view import HELD_OUT_STYLES
from hdb.metrics.embedders import BATCH
from hdb.metrics.networks import AttributeClassifier
from hdb.metrics.similarity import Interval, bootstrap_ci, cosines, normalized, paired_ci
from hdb.worldbase import quality

SCORES = ("face_rec", "dino", "clip_i", "clip_t")
PROMPTED = ("style", "context", "accessory")
PerIdentity = dict[str, np.ndarray]
Asked = list[dict[str, str]]


def what_is_asked(config: Evaluate, prompts: Sequence[str]) -> Asked | None:
    """What each prompt asks for; None where they are no captions of faceworld.

    Raises:
        ValueError: they are none, and a classifier shall judge them.
    """
    classifier = config.judges.classifier
    if classifier is None and config.faces.source != "faceworld":
        return None
    try:
        return quality.asked(prompts)
    except ValueError as error:
        if classifier is not None:
            raise ValueError(f"{error}; expected such prompts, or judges.classifier=null") from None
        return None


def score_pictures(
    judges: Embedders,
    pictures: Float[Tensor, "n p k 3 h w"],
    references: Float[Tensor, "n v 3 hh ww"],
    prompts: Sequence[str],
    *,
    gallery: Float[Tensor, "g d"],
    asked: Asked | None,
) -> PerIdentity:
    """One number per person and score: k pictures of each of n people for each of p prompts, against v references.

    `others` is the face_rec against everybody else's references: what a picture of just anybody would get. `rank_1/...`
    and `prompted/...` are shares of pictures; the latter leave out styles that no judge was shown.

    Args:
        prompts: p of them, without the identifier.
        gallery: what the recognizer sees in photos of g people, the first n those of the pictures.
        asked: what the p prompts ask for, where that is known: it tells prompts for photos from those for styles.
    """
    num_people, num_prompts, num_pictures = pictures.shape[:3]
    flat = pictures.flatten(0, 2)
    scores: PerIdentity = {}
    for name, judge in (("face_rec", judges.recognizer), ("dino", judges.dino), ("clip_i", judges.clip)):
        generated = judge.embed_images(flat).unflatten(0, (num_people, -1))  # (n, p k, d)
        known = judge.embed_images(references.flatten(0, 1)).unflatten(0, (num_people, -1)).mean(1)  # (n, d)
        # The mean over references of a cosine is the product with their mean, which is shorter than 1.
        everyone = torch.einsum("nid,md->nm", generated, known) / generated.shape[1]
        scores[name] = everyone.diagonal().numpy()
        if name == "face_rec" and num_people > 1:
            off = everyone.sum(1) - everyone.diagonal()
            scores["others"] = (off / (num_people - 1)).numpy()
        if name == "face_rec":
            right = recognized(generated, gallery).unflatten(1, (num_prompts, num_pictures))
            for kind, rows in kinds_of_prompts(asked, num=num_prompts).items():
                scores[f"rank_1/{kind}"] = right[:, rows].double().mean((1, 2)).numpy()
    texts = judges.clip.embed_texts(list(prompts)).repeat_interleave(num_pictures, 0).repeat(num_people, 1)
    fit = cosines(judges.clip.embed_images(flat), texts)
    scores["clip_t"] = fit.unflatten(0, (num_people, -1)).mean(1).numpy()
    rows = [row for row, labels in enumerate(asked or []) if labels["style"] not in HELD_OUT_STYLES]
    if judges.classifier is not None and rows:
        wanted = [asked[row] for row in rows for _ in range(num_pictures)] * num_people
        for question, right in shown(judges.classifier, pictures[:, rows].flatten(0, 2), wanted).items():
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
    device = next(classifier.parameters()).device
    seen = [classifier.answers(part.to(device)) for part in pictures.split(BATCH)]
    right = {}
    for question in PROMPTED:
        answers = [answer for part in seen for answer in part[question]]
        pairs = zip(answers, wanted, strict=True)
        right[question] = torch.tensor([answer == labels[question] for answer, labels in pairs])
    return right


def summarize(per_method: Mapping[str, PerIdentity], *, num_resamples: int, seed: int) -> dict[str, dict]:
    """Means, 95 % intervals over people, normalized scores of every method, and scores of each person to 4 digits."""
    options = {"num_samples": num_resamples, "seed": seed}
    intervals = {m: {name: bootstrap_ci(of[name], **options) for name in SCORES} for m, of in per_method.items()}
    summary: dict[str, dict] = {}
    for method, scores in per_method.items():
        summary[method] = {}
        for name, interval in intervals[method].items():
            entry = {**written(interval), "normalized": None}
            if {"unpersonalized", "oracle"} <= intervals.keys():
                ends = {end: intervals[end][name].mean for end in ("unpersonalized", "oracle")}
                entry["normalized"] = normalized(interval.mean, **ends)
            summary[method][name] = entry | {"per_identity": [round(float(score), 4) for score in scores[name]]}
        if "others" in scores:
            summary[method]["face_rec"]["others"] = float(scores["others"].mean())
        for name, shares in scores.items():
            score, _, part = name.partition("/")
            if part:
                summary[method].setdefault(score, {})[part] = written(bootstrap_ci(shares, **options))
    return summary


def written(interval: Interval) -> dict[str, float | list[float]]:
    """As results.json has it."""
    return {"mean": interval.mean, "ci95": [interval.low, interval.high]}


def paired(per_method: Mapping[str, PerIdentity], *, num_resamples: int, seed: int) -> dict[str, dict]:
    """HyperDreamBooth minus each other method, person by person: {method: {score: {mean, ci95}}}."""
    ours, differences = per_method["hyperdreambooth"], {}
    for method, theirs in per_method.items():
        if method != "hyperdreambooth":
            intervals = {n: paired_ci(ours[n], theirs[n], num_samples=num_resamples, seed=seed) for n in SCORES}
            differences[method] = {name: written(interval) for name, interval in intervals.items()}
    return differences


def table(methods: Mapping[str, dict]) -> str:
    """The scores as text: mean, half-width of the interval, normalized."""
    lines = [f"{'':16}" + "".join(f"{name:^24}" for name in SCORES) + f"{'seconds':>8}{'bytes':>9}"]
    for method, entry in methods.items():
        cells = []
        for name in SCORES:
            low, high = entry[name]["ci95"]
            share = entry[name]["normalized"]
            on_scale = "" if share is None else f"({share:+.2f})"
            cells.append(f"{entry[name]['mean']:8.3f} ±{(high - low) / 2:.3f} {on_scale:8}")
        lines.append(f"{method:16}" + "".join(cells) + f"{entry['seconds']:8.1f}{entry['bytes']:9.0f}")
    lines.append("mean ± half of the 95 % interval over people; in brackets 0 = unpersonalized, 1 = oracle")
    return "\n".join(lines)


def shares_table(methods: Mapping[str, dict], *, gallery: int) -> str:
    """What the prompt asked for, and who was recognized among `gallery` people, as text: shares of pictures."""
    first = next(iter(methods.values()))
    columns = [(score, part) for score in ("prompted", "rank_1") for part in first.get(score, {})]
    names = [part if score == "prompted" else f"{score} {part}" for score, part in columns]
    lines = [f"{'':16}" + "".join(f"{name:^16}" for name in names)]
    for method, entry in methods.items():
        cells = []
        for score, part in columns:
            low, high = entry[score][part]["ci95"]
            cells.append(f"{entry[score][part]['mean']:8.3f} ±{(high - low) / 2:.3f} ")
        lines.append((f"{method:16}" + "".join(cells)).rstrip())
    chance = f"chance {1 / gallery:.3f}"
    lines.append(f"shares of pictures that are right; rank_1: the nearest of {gallery} people is their own, {chance}")
    return "\n".join(lines)
