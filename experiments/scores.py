"""From pictures to the table: four scores per method, their intervals over people, and where they lie on the scale."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.networks import Embedders
from hdb.metrics.similarity import bootstrap_ci, cosines, normalized, paired_ci

SCORES = ("face_rec", "dino", "clip_i", "clip_t")
PerIdentity = dict[str, np.ndarray]


def score_pictures(
    judges: Embedders,
    pictures: Float[Tensor, "n p k 3 h w"],
    references: Float[Tensor, "n v 3 hh ww"],
    prompts: Sequence[str],
) -> PerIdentity:
    """One number per person and score: k pictures of each of n people for each of p prompts, against v references.

    `others` is the face_rec against everybody else's references: what a picture of just anybody would get.

    Args:
        prompts: p of them, without the identifier.
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
    texts = judges.clip.embed_texts(list(prompts)).repeat_interleave(num_pictures, 0).repeat(num_people, 1)
    fit = cosines(judges.clip.embed_images(flat), texts)
    scores["clip_t"] = fit.unflatten(0, (num_people, -1)).mean(1).numpy()
    return scores


def summarize(per_method: Mapping[str, PerIdentity], *, num_resamples: int, seed: int) -> dict[str, dict]:
    """Means, 95 % intervals over people and normalized scores of every method."""
    options = {"num_samples": num_resamples, "seed": seed}
    intervals = {m: {name: bootstrap_ci(of[name], **options) for name in SCORES} for m, of in per_method.items()}
    summary: dict[str, dict] = {}
    for method, scores in per_method.items():
        summary[method] = {}
        for name, interval in intervals[method].items():
            entry = {"mean": interval.mean, "ci95": [interval.low, interval.high], "normalized": None}
            if {"unpersonalized", "oracle"} <= intervals.keys():
                ends = {end: intervals[end][name].mean for end in ("unpersonalized", "oracle")}
                entry["normalized"] = normalized(interval.mean, **ends)
            summary[method][name] = entry
        if "others" in scores:
            summary[method]["face_rec"]["others"] = float(scores["others"].mean())
    return summary


def paired(per_method: Mapping[str, PerIdentity], *, num_resamples: int, seed: int) -> dict[str, dict]:
    """HyperDreamBooth minus each other method, person by person: {method: {score: {mean, ci95}}}."""
    ours, differences = per_method["hyperdreambooth"], {}
    for method, theirs in per_method.items():
        if method != "hyperdreambooth":
            intervals = {n: paired_ci(ours[n], theirs[n], num_samples=num_resamples, seed=seed) for n in SCORES}
            differences[method] = {n: {"mean": i.mean, "ci95": [i.low, i.high]} for n, i in intervals.items()}
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
