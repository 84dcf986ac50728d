"""Gate: how well the pictures of a person fit their photo, against people of whom that was measured."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from hdb.faces.crop import FaceCropper
from hdb.files import write_json
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import compute_hypernet_digest
from hdb.metrics.embedders import FaceNet, TimmEmbedder

FILE = "gate.json"  # beside the hypernetwork, whose people it is about
WORST = 0.2  # share of the measured people whom the least like of them are: too far from their photo
SAME = 0.05  # the same of those whose pictures differ least from prompt to prompt: the prompt is lost
PORTRAIT = 0.8  # a prompt's pictures should show a face that is found where those of this share of people do


class Seen(NamedTuple):
    """What a gate sees in p pictures, one for each prompt, of each of n people."""

    likeness: Float[Tensor, "n p"]  # to the photo, cosine of the hypernetwork's own embeddings
    faces: Bool[Tensor, "n p"]
    spread: Float[Tensor, " n"]  # root mean square of what the pictures of a person differ by, at 16 px


class Verdict(NamedTuple):
    """In words, and whether all is well."""

    words: str
    fits: bool


@torch.no_grad()
def see(hypernet: HyperNet, photos: Float[Tensor, "n 3 h w"], pictures: Float[Tensor, "n p 3 hh ww"]) -> Seen:
    """Compares pictures with the photo of their person, whatever their prompts."""
    device, size = hypernet.initial_theta.device, pictures.shape[:2]

    def embedded(images: Tensor) -> Tensor:
        parts = [hypernet.forward_features(part.to(device)).embedding for part in images.split(64)]
        return F.normalize(torch.cat(parts).float().cpu(), dim=1)

    flat = pictures.flatten(0, 1)
    likeness = (embedded(flat).unflatten(0, size) * embedded(photos)[:, None]).sum(2)
    cropper, pixels = FaceCropper(), flat.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    faces = torch.tensor([bool(cropper.detect(Image.fromarray(picture))) for picture in pixels]).unflatten(0, size)
    small = F.adaptive_avg_pool2d(flat, 16).unflatten(0, size)
    spread = (small - small.mean(1, keepdim=True)).square().flatten(1).mean(1).sqrt().cpu()
    return Seen(likeness, faces, spread)


@dataclass(frozen=True)
class Gate:
    """What was seen of people whom a hypernetwork was not trained on, each personalized as a user would be."""

    prompts: list[str]
    seen: Seen
    hypernet: str  # digest of its weights

    @classmethod
    def beside(cls, hypernet: Path) -> "Gate | None":
        """That of a hypernetwork's folder or checkpoint; None where none was measured, or of other weights."""
        file = place_of(hypernet)
        if not file.is_file():
            return None
        content = json.loads(file.read_text())
        seen = Seen(*(torch.tensor(content[name]) for name in Seen._fields))
        gate = cls(content["prompts"], seen._replace(faces=seen.faces.bool()), content["hypernet"])
        return gate if gate.hypernet == compute_hypernet_digest(hypernet) else None

    def save(self, hypernet: Path) -> Path:
        """Writes it beside the hypernetwork."""
        numbers = {name: part.float().round(decimals=4).tolist() for name, part in self.seen._asdict().items()}
        write_json(place_of(hypernet), {"hypernet": self.hypernet, "prompts": self.prompts} | numbers)
        return place_of(hypernet)

    def judge(self, prompts: Sequence[str], seen: Seen) -> Verdict:
        """How one person's pictures compare; those for other prompts than were measured are not looked at.

        Args:
            prompts: one for each of the pictures of `seen`, which are of one person.
        """
        known = [(place, self.prompts.index(of)) for place, of in enumerate(prompts) if of in self.prompts]
        if not known:
            return Verdict(f"fit: not known, as none of the prompts is one of {', '.join(self.prompts)}", fits=True)
        mine, theirs = (list(places) for places in zip(*known, strict=True))
        ranks = self.seen.likeness[:, theirs].mean(1) < seen.likeness[0, mine].mean()
        rank, num = float(ranks.float().mean()), len(ranks)
        usual = self.seen.faces.float().mean(0)
        portraits = [bool(seen.faces[0, my]) for my, their in known if usual[their] >= PORTRAIT]
        lost, reasons = portraits.count(False), []
        if lost and 2 * lost >= len(portraits):
            reasons.append(f"no face in {lost} of {len(portraits)} previews that should show one")
        if rank < WORST:
            reasons.append("too far from the photo")
        if set(theirs) == set(range(len(self.prompts))) and seen.spread[0] < self.seen.spread.quantile(SAME):
            reasons.append("the prompt is lost: the previews hardly differ")
        told = f"more like the photo than those of {rank:.0%} of {num} people it was measured on"
        return Verdict(f"fit: {'poor' if reasons else 'good'}, {'; '.join([told, *reasons])}", fits=not reasons)


def judged(
    path: Path,
    hypernet: HyperNet,
    photo: Float[Tensor, "3 h w"],
    *,
    prompts: Sequence[str],
    pictures: Float[Tensor, "p 3 hh ww"],
) -> Verdict:
    """The verdict of the gate beside a hypernetwork, if there is one."""
    if (gate := Gate.beside(path)) is None:
        return Verdict(f"fit: not known, as no {FILE} was measured for these weights (experiments.gate)", fits=True)
    return gate.judge(prompts, see(hypernet, photo[None], pictures[None]))


def separation(scores: Float[Tensor, " n"], truth: Float[Tensor, " n"], *, share: float = WORST) -> float:
    """AUC with which scores tell the best from the worst share of people, by the truth; ties count half.

    >>> separation(torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    1.0
    """
    num, order = max(1, int(share * len(truth))), truth.argsort()
    worst, best = scores[order[:num]], scores[order[-num:]]
    above = (best[:, None] > worst).float() + 0.5 * (best[:, None] == worst).float()
    return float(above.mean())


def recognized(
    judge: TimmEmbedder | FaceNet, pictures: Float[Tensor, "n p 3 h w"], others: Float[Tensor, "n v 3 hh ww"]
) -> Float[Tensor, " n"]:
    """How like other photos of their person the pictures are to a recognizer: the truth that a gate does not know."""
    seen, known = (judge.embed_images(of.flatten(0, 1)).unflatten(0, of.shape[:2]).mean(1) for of in (pictures, others))
    return (seen * known).sum(1)


def place_of(hypernet: Path) -> Path:
    """Where the gate of a hypernetwork lies."""
    return (hypernet if hypernet.is_dir() else hypernet.parent) / FILE
