"""Quality gate: how well the pictures of a person fit their photo, compared with people that were measured before.

Of a photo that looks like those of none of these people it says just that.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.appearance import KnownAppearances, describe_appearance
from hdb.faces.crop import FaceCropper
from hdb.files import resolve_shipped, write_json
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import SHIPPED_HYPERNET, compute_hypernet_digest
from hdb.lidb.file import Subject
from hdb.metrics.embedders import FaceNet, TimmEmbedder
from hdb.pipeline import HyperDreamBoothPipeline

GATE_FILE = "gate.json"  # beside the hypernetwork
APPEARANCES_FILE = "gate.safetensors"  # beside gate.json: what the photos of the measured people look like
FAR_SHARE = 0.2  # a person as little like the photo as this share of the measured people is too far from it
EQUAL_SHARE = 0.05  # one whose pictures differ as little as those of this share does not follow the prompts
PORTRAIT_SHARE = 0.8  # a prompt should show a face if a face was found in the pictures of this share of people
SPREAD_SIZE = 16  # px, to which pictures are reduced before they are compared with each other
BATCH = 64


class GateObservations(NamedTuple):
    """Measurements of p pictures, one for each prompt, of each of n people.

    Args:
        likeness: cosine with the photo, under the hypernetwork's own face embeddings.
        faces: whether a face is found.
        spread: root mean square of the differences between a person's pictures, at 16 px.
    """

    likeness: Float[Tensor, "n p"]
    faces: Bool[Tensor, "n p"]
    spread: Float[Tensor, " n"]


class Verdict(NamedTuple):
    """A sentence about a person's pictures, and whether they fit the photo."""

    words: str
    fits: bool


@torch.no_grad()
def observe(
    hypernet: HyperNet, photos: Float[Tensor, "n 3 h w"], pictures: Float[Tensor, "n p 3 hh ww"]
) -> GateObservations:
    """Compares pictures with the photo of their person."""
    size = pictures.shape[:2]
    flat = pictures.flatten(0, 1)
    embeddings = embed_faces(hypernet, flat).unflatten(0, size)
    likeness = (embeddings * embed_faces(hypernet, photos)[:, None]).sum(2)
    cropper = FaceCropper()
    pixels = flat.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    faces = torch.tensor([bool(cropper.detect(Image.fromarray(picture))) for picture in pixels]).unflatten(0, size)
    small = F.adaptive_avg_pool2d(flat, SPREAD_SIZE).unflatten(0, size)
    spread = (small - small.mean(1, keepdim=True)).square().flatten(1).mean(1).sqrt().cpu()
    return GateObservations(likeness, faces, spread)


def embed_faces(hypernet: HyperNet, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """Unit vectors of the hypernetwork's face encoder, on the CPU."""
    device = hypernet.initial_theta.device
    embeddings = [hypernet.forward_features(batch.to(device)).embedding for batch in images.split(BATCH)]
    return F.normalize(torch.cat(embeddings).float().cpu(), dim=1)


@dataclass(frozen=True)
class Gate:
    """Observations of people whom a hypernetwork was not trained on, each personalized as a user would be.

    Args:
        prompts: p of them.
        observations: of the p prompts.
        hypernet: digest of the hypernetwork's weights.
        appearances: of these people's photos; None if that was not measured.
    """

    prompts: list[str]
    observations: GateObservations
    hypernet: str
    appearances: KnownAppearances | None = None

    @classmethod
    def load_for(cls, hypernet: Path) -> "Gate | None":
        """The gate of a hypernetwork, by its folder or checkpoint; None if none was measured for these weights."""
        path = gate_path(hypernet)
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        numbers = {
            name: torch.from_numpy(np.array(content[name], dtype=np.float32)) for name in GateObservations._fields
        }
        observations = GateObservations(numbers["likeness"], numbers["faces"].bool(), numbers["spread"])
        digest = compute_hypernet_digest(hypernet)
        if content["hypernet"] != digest:
            return None
        appearances = KnownAppearances.load(path.with_name(APPEARANCES_FILE), hypernet=digest)
        return cls(content["prompts"], observations, digest, appearances)

    def save(self, hypernet: Path) -> Path:
        """Writes gate.json beside the hypernetwork, and gate.safetensors if there are appearances."""
        path = gate_path(hypernet)
        if self.appearances is not None:
            self.appearances.save(path.with_name(APPEARANCES_FILE), hypernet=self.hypernet)
        numbers = {
            name: values.float().round(decimals=4).tolist() for name, values in self.observations._asdict().items()
        }
        write_json(path, {"hypernet": self.hypernet, "prompts": self.prompts} | numbers)
        return path

    def judge(self, prompts: Sequence[str], observed: GateObservations) -> Verdict:
        """How one person's pictures compare; pictures of prompts that were not measured do not count.

        Args:
            prompts: p of them.
            observed: of one person, for these prompts.
        """
        columns = [column for column, prompt in enumerate(prompts) if prompt in self.prompts]
        if not columns:
            return Verdict(f"fit: not known, as none of the prompts is one of {', '.join(self.prompts)}", fits=True)
        measured = [self.prompts.index(prompts[column]) for column in columns]
        likeness = self.observations.likeness[:, measured].mean(1)
        rank = float((likeness < observed.likeness[0, columns].mean()).float().mean())
        face_share = self.observations.faces.float().mean(0)[measured]
        portraits = observed.faces[0, columns][face_share >= PORTRAIT_SHARE]
        num_faceless = int((~portraits).sum())
        reasons = []
        if num_faceless and 2 * num_faceless >= len(portraits):
            reasons.append(f"a detector finds no face in {num_faceless} of the {len(portraits)} that should show one")
        all_prompts = set(measured) == set(range(len(self.prompts)))
        if all_prompts and observed.spread[0] < self.observations.spread.quantile(EQUAL_SHARE):
            reasons.append("they hardly differ, so that the prompt is lost")
        is_far = rank < FAR_SHARE
        share = f"{rank:.0%} of {len(likeness)} measured people"
        if is_far:
            words = f"too far from the photo: the previews are more like it than those of only {share}"
        else:
            words = f"the previews are more like the photo than those of {share}"
        if reasons:
            words += f"{'; ' if is_far else ', but '}{' and '.join(reasons)}"
        fits = not is_far and not reasons
        return Verdict(f"fit: {'good' if fits else 'poor'}, {words}", fits=fits)

    def judge_photo(self, hypernet: HyperNet, photo: Float[Tensor, "3 h w"], *, base: str) -> Verdict | None:
        """What is to be said of a photo before anything is drawn: that it is none of the base's world; else None.

        Args:
            base: what the base is called in the sentence, and what it draws.
        """
        if self.appearances is None:
            return None
        features = describe_appearance(hypernet.encoder, photo[None])
        if not self.appearances.are_foreign(features).item():
            return None
        difference = (
            f"it differs more from the photos of {len(self.appearances)} measured people than any of them from the "
            "others"
        )
        return Verdict(f"fit: poor, as this photo is none of the base's world: {base}, and {difference}", fits=False)


class DrawnPictures(NamedTuple):
    """Pictures of one person; picture i is of prompt i and has the starting noise of seed + i."""

    prompts: list[str]
    seed: int
    sampling: SamplingOptions
    pictures: Float[Tensor, "p 3 h w"]


def judge_subject(
    pipeline: HyperDreamBoothPipeline,
    path: Path | None,
    subject: Subject,
    photo: Float[Tensor, "3 h w"],
    *,
    drawn: DrawnPictures | None = None,
    callback_on_step_end: Callable[[int], None] | None = None,
) -> Verdict:
    """Draws a subject as the people were drawn with whom the gate compares, and judges the pictures.

    The prompts are the gate's, the seeds 0 to p - 1, the sampling that of the pipeline's settings. So a subject gets
    the same verdict wherever it is judged, whatever else is drawn of it.

    Args:
        path: of the hypernetwork, beside which its gate is; None if there is no hypernetwork.
        photo: the face crop from which the subject was made. Where it is none of the base's world nothing is drawn.
        drawn: pictures of the subject that exist already, to be used if they are what would be drawn.
        callback_on_step_end: called with the number of each finished sampling step.
    """
    if path is None or pipeline.hypernet is None:
        return Verdict("fit: not known, as it is measured with the encoder of a hypernetwork", fits=True)
    gate = Gate.load_for(path)
    if gate is None:
        reason = f"as no {GATE_FILE} was measured for these weights (experiments.gate)"
        return Verdict(f"fit: not known, {reason}", fits=True)
    is_shipped = path.resolve() == resolve_shipped(SHIPPED_HYPERNET).resolve()
    base = "the shipped base draws people who do not exist" if is_shipped else "the base draws people of another kind"
    verdict = gate.judge_photo(pipeline.hypernet, photo, base=base)
    if verdict is not None:
        return verdict
    sampling = pipeline.settings.sampling
    if drawn is not None and (drawn.prompts, drawn.seed, drawn.sampling) == (gate.prompts, 0, sampling):
        pictures = drawn.pictures
    else:
        pictures = pipeline.people(subject).pictures(
            gate.prompts,
            seeds=range(len(gate.prompts)),
            sampling=sampling,
            callback_on_step_end=callback_on_step_end,
        )
    return gate.judge(gate.prompts, observe(pipeline.hypernet, photo[None], pictures[None]))


def separation_auc(scores: Float[Tensor, " n"], truth: Float[Tensor, " n"], *, share: float = FAR_SHARE) -> float:
    """AUC with which scores tell the best from the worst share of people, by the truth; ties count half.

    >>> separation_auc(torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    1.0
    """
    num = max(1, int(share * len(truth)))
    order = truth.argsort()
    return compute_auc(scores[order[-num:]], scores[order[:num]])


def compute_auc(higher: Float[Tensor, " n"], lower: Float[Tensor, " m"]) -> float:
    """Share of pairs in which the first value is above the second; ties count half."""
    above = (higher[:, None] > lower).float() + 0.5 * (higher[:, None] == lower).float()
    return float(above.mean())


def recognizer_likeness(
    recognizer: TimmEmbedder | FaceNet, pictures: Float[Tensor, "n p 3 h w"], photos: Float[Tensor, "n v 3 hh ww"]
) -> Float[Tensor, " n"]:
    """How like other photos of their person the pictures are to a recognizer: the truth, which a gate does not know."""
    mean_of_pictures = recognizer.embed_images(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]).mean(1)
    mean_of_photos = recognizer.embed_images(photos.flatten(0, 1)).unflatten(0, photos.shape[:2]).mean(1)
    return (mean_of_pictures * mean_of_photos).sum(1)


def gate_path(hypernet: Path) -> Path:
    """Where the gate of a hypernetwork lies."""
    return (hypernet if hypernet.is_dir() else hypernet.parent) / GATE_FILE
