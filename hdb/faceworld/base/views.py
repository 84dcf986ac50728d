"""Views: pictures, labels and captions of faceworld in memory, handed out in batches that depend on the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from hdb.faceworld.dataset import LABEL_NAMES, FaceWorldDataset
from hdb.faceworld.identity import BEARDS, HAIR_STYLES
from hdb.faceworld.view import KINDS

CAPTIONS_PER_PICTURE = 3
BARE_PHOTO = 0.5  # share of "a photo of a face" that become "a face": the instance prompt must be in distribution


@dataclass
class Views:
    """Everything the base is trained on, as tensors over identities and their views."""

    images: UInt8[Tensor, "identities views 3 h w"]
    labels: Int[Tensor, "identities views 4"]  # style, context, accessory, expression
    traits: Float[Tensor, "identities traits"]  # what is true of each person, see `true_traits`
    captions: list[list[list[str]]]  # [identity][view][variant]

    @classmethod
    def load(cls, dataset: FaceWorldDataset, *, seed: int = 0) -> Views:
        """Reads every picture of the dataset's identities and draws their captions; a third carry the identifier."""
        rng = np.random.default_rng([seed, 101])
        views = range(dataset.views_per_identity)
        labels, captions = [], []
        for i in tqdm(range(len(dataset)), desc="reading faceworld", leave=False):
            labels.append([list(dataset.labels(i, j)) for j in views])
            captions.append(
                [[_bare(dataset.caption(i, j, rng=rng), rng) for _ in range(CAPTIONS_PER_PICTURE)] for j in views]
            )
        return cls(torch.from_numpy(dataset.images), torch.tensor(labels), true_traits(dataset), captions)

    def of_kind(self, kind: str) -> Views:
        """The same people in their views of one kind only."""
        chosen = [view for view in range(self.views_per_identity) if KINDS[view % len(KINDS)] == kind]
        captions = [[views[view] for view in chosen] for views in self.captions]
        return Views(self.images[:, chosen], self.labels[:, chosen], self.traits, captions)

    def __len__(self) -> int:
        return self.images.shape[0] * self.images.shape[1]

    @property
    def identities(self) -> int:
        return self.images.shape[0]

    @property
    def views_per_identity(self) -> int:
        return self.images.shape[1]

    @property
    def styles_and_contexts(self) -> set[tuple[str, str]]:
        """Every pair of style and context that a picture shows, by name."""
        pairs = self.labels[..., :2].flatten(0, 1).unique(dim=0).tolist()
        return {(LABEL_NAMES.style[style], LABEL_NAMES.context[context]) for style, context in pairs}

    def pick(self, step: int, size: int, *, seed: int) -> Int[Tensor, " size"]:
        """Flat numbers of the pictures of one step: without repetition within an epoch, the same at every resume."""
        epoch_length = max(1, len(self) // size)
        epoch, position = divmod(step, epoch_length)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63))
        return order[position * size : (position + 1) * size] if len(self) >= size else order

    def pick_people(self, step: int, *, people: int, views: int, seed: int) -> Int[Tensor, " n"]:
        """Flat numbers of some views of each of some people; view k of person p is at p * views + k."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        who = torch.randperm(self.identities, generator=generator)[:people]
        shown = [torch.randperm(self.views_per_identity, generator=generator)[:views] for _ in who]
        return (who[:, None] * self.views_per_identity + torch.stack(shown)).flatten()

    def pictures(self, flat: Int[Tensor, " n"]) -> Tensor:
        """Pictures in [0, 1] by flat number, (n, 3, h, w)."""
        return self.images.flatten(0, 1)[flat].float() / 255

    def labels_of(self, flat: Int[Tensor, " n"]) -> Int[Tensor, "n 4"]:
        return self.labels.flatten(0, 1)[flat]

    def identities_of(self, flat: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return flat // self.views_per_identity

    def captions_of(self, flat: Int[Tensor, " n"], generator: torch.Generator) -> list[str]:
        """One of each picture's captions."""
        variants = torch.randint(CAPTIONS_PER_PICTURE, (len(flat),), generator=generator).tolist()
        where = [divmod(number, self.views_per_identity) for number in flat.tolist()]
        return [self.captions[i][j][variant] for (i, j), variant in zip(where, variants, strict=True)]


def _bare(caption: str, rng: np.random.Generator) -> str:
    opening = "a photo of "
    return caption.removeprefix(opening) if rng.random() < BARE_PHOTO else caption


def true_traits(dataset: FaceWorldDataset) -> Float[Tensor, "identities traits"]:
    """What is true of each person: landmarks, colors, hair and beard, centered.

    Landmarks keep their relative sizes: standardized one by one, slight traits would count as much as the shape of the
    head. On average each has the deviation 1, as each color has; hair style and beard are twice a one-hot.
    """
    people = [dataset.world.identity(index) for index in dataset.indices]
    landmarks = np.stack([dataset.world.landmarks(index) for index in dataset.indices])
    colors = np.array([(p.melanin, p.redness, *p.iris_color, *np.sqrt(p.hair_color), p.lipstick) for p in people])
    kinds = [[p.hair_style == h for h in HAIR_STYLES] + [p.beard == b for b in BEARDS] for p in people]
    landmarks = (landmarks - landmarks.mean(0)) / max(float(np.sqrt(landmarks.var(0).mean())), 1e-6)
    colors = (colors - colors.mean(0)) / np.maximum(colors.std(0), 1e-3)
    return torch.from_numpy(np.concatenate([landmarks, colors, 2.0 * np.array(kinds)], axis=1).astype(np.float32))
