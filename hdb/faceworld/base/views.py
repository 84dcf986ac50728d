"""Views: pictures, labels and captions of faceworld in memory, and the batches of each training step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from hdb.faceworld.dataset import LABEL_NAMES, FaceWorldDataset
from hdb.faceworld.identity import BEARDS, HAIR_STYLES
from hdb.faceworld.view import KINDS

CAPTIONS_PER_PICTURE = 3
PHOTO_PREFIX = "a photo of "
BARE_CAPTIONS = 0.5  # share of captions that lose the prefix, as "a [V] face", the instance prompt, has none


@dataclass
class Views:
    """What the networks of the base are trained on. Indices run over all pictures, person by person."""

    images: UInt8[Tensor, "identities views 3 h w"]
    labels: Int[Tensor, "identities views 4"]  # style, context, accessory, expression
    traits: Float[Tensor, "identities traits"]  # see `true_traits`
    captions: list[list[list[str]]]  # [identity][view][variant]

    @classmethod
    def load(cls, dataset: FaceWorldDataset, *, seed: int = 0) -> Views:
        """Reads all pictures of a dataset and draws their captions."""
        rng = np.random.default_rng([seed, 101])
        views = range(dataset.views_per_identity)
        labels, captions = [], []
        for i in tqdm(range(len(dataset)), desc="reading faceworld", leave=False):
            labels.append([list(dataset.labels(i, j)) for j in views])
            variants = range(CAPTIONS_PER_PICTURE)
            captions.append([[training_caption(dataset, i, j, rng) for _ in variants] for j in views])
        return cls(torch.from_numpy(dataset.images), torch.tensor(labels), true_traits(dataset), captions)

    def select_kind(self, kind: str) -> Views:
        """The same people in their views of one kind only."""
        chosen = [view for view in range(self.views_per_identity) if KINDS[view % len(KINDS)] == kind]
        captions = [[views[view] for view in chosen] for views in self.captions]
        return Views(self.images[:, chosen], self.labels[:, chosen], self.traits, captions)

    def __len__(self) -> int:
        return self.images.shape[0] * self.images.shape[1]

    @property
    def num_identities(self) -> int:
        return self.images.shape[0]

    @property
    def views_per_identity(self) -> int:
        return self.images.shape[1]

    @property
    def styles_and_contexts(self) -> set[tuple[str, str]]:
        """Every pair of style and context that a picture shows, by name."""
        pairs = self.labels[..., :2].flatten(0, 1).unique(dim=0).tolist()
        return {(LABEL_NAMES.style[style], LABEL_NAMES.context[context]) for style, context in pairs}

    def batch_indices(self, step: int, size: int, *, seed: int) -> Int[Tensor, " size"]:
        """Indices of the pictures of one step: a shuffle of all pictures for each epoch, the same after a restart."""
        epoch, position = divmod(step, max(1, len(self) // size))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63))
        return order[position * size : (position + 1) * size] if len(self) >= size else order

    def people_indices(self, step: int, num_people: int, *, num_views: int, seed: int) -> Int[Tensor, " n"]:
        """Indices of `num_views` pictures of each of `num_people` people, person by person."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        people = torch.randperm(self.num_identities, generator=generator)[:num_people]
        views = [torch.randperm(self.views_per_identity, generator=generator)[:num_views] for _ in people]
        return (people[:, None] * self.views_per_identity + torch.stack(views)).flatten()

    def pictures(self, indices: Int[Tensor, " n"]) -> Tensor:
        """Pictures in [0, 1], (n, 3, h, w)."""
        return self.images.flatten(0, 1)[indices].float() / 255

    def labels_of(self, indices: Int[Tensor, " n"]) -> Int[Tensor, "n 4"]:
        return self.labels.flatten(0, 1)[indices]

    def identities_of(self, indices: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return indices // self.views_per_identity

    @cached_property
    def distinct_captions(self) -> list[str]:
        """Every caption once."""
        every = (caption for views in self.captions for variants in views for caption in variants)
        return list(dict.fromkeys(every))

    @cached_property
    def caption_rows(self) -> Int[Tensor, "pictures variants"]:
        """Where the captions of each picture stand in `distinct_captions`."""
        rows = {caption: row for row, caption in enumerate(self.distinct_captions)}
        return torch.tensor([[rows[caption] for caption in variants] for views in self.captions for variants in views])

    def sample_caption_rows(self, indices: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """One of the captions of each picture, by its place in `distinct_captions`."""
        variants = torch.randint(CAPTIONS_PER_PICTURE, (len(indices),), generator=generator)
        return self.caption_rows[indices, variants]

    def sample_captions(self, indices: Int[Tensor, " n"], generator: torch.Generator) -> list[str]:
        """One of the captions of each picture."""
        return [self.distinct_captions[row] for row in self.sample_caption_rows(indices, generator).tolist()]


def training_caption(dataset: FaceWorldDataset, i: int, j: int, rng: np.random.Generator) -> str:
    """A training caption of picture (i, j); half of those of photos begin with "a face"."""
    caption = dataset.caption(i, j, rng=rng)
    return caption.removeprefix(PHOTO_PREFIX) if rng.random() < BARE_CAPTIONS else caption


def true_traits(dataset: FaceWorldDataset) -> Float[Tensor, "identities traits"]:
    """What is true of each person: landmarks, colors, hair and beard, centered.

    Landmarks keep their relative sizes: standardized one by one, slight traits would count as much as the shape of the
    head. On average each has the deviation 1, as each color has; hair style and beard are twice a one-hot vector.
    """
    people = [dataset.world.identity(index) for index in dataset.indices]
    landmarks = np.stack([dataset.world.landmarks(index) for index in dataset.indices])
    colors = np.array([(p.melanin, p.redness, *p.iris_color, *np.sqrt(p.hair_color), p.lipstick) for p in people])
    kinds = [[p.hair_style == h for h in HAIR_STYLES] + [p.beard == b for b in BEARDS] for p in people]
    landmarks = (landmarks - landmarks.mean(0)) / max(float(np.sqrt(landmarks.var(0).mean())), 1e-6)
    colors = (colors - colors.mean(0)) / np.maximum(colors.std(0), 1e-3)
    return torch.from_numpy(np.concatenate([landmarks, colors, 2.0 * np.array(kinds)], axis=1).astype(np.float32))
