"""Views: pictures, labels and captions of faceworld in memory, handed out in batches that depend on the step alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from hdb.faceworld.captions import IDENTIFIER
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.identity import BEARDS, HAIR_STYLES, Identity

CAPTIONS_PER_PICTURE = 3
BARE_PHOTO = 0.5  # share of "a photo of a face" that become "a face": the instance prompt must be in distribution


@dataclass
class Views:
    """Everything the base is trained on, as tensors over identities and their views."""

    images: UInt8[Tensor, "identities views 3 h w"]
    labels: Int[Tensor, "identities views 4"]  # style, context, accessory, expression
    traits: Float[Tensor, "identities traits"]  # true parameters of each person, raw
    captions: list[list[list[str]]]  # [identity][view][variant]

    @classmethod
    def load(cls, dataset: FaceWorldDataset, *, seed: int = 0) -> Views:
        """Reads every picture of the dataset's identities and draws their captions; a third carry the identifier."""
        rng = np.random.default_rng([seed, 101])
        views = range(dataset.views_per_identity)
        labels, captions, traits = [], [], []
        for i in tqdm(range(len(dataset)), desc="reading faceworld", leave=False):
            labels.append([list(dataset.labels(i, j)) for j in views])
            captions.append(
                [[_bare(dataset.caption(i, j, rng=rng), rng) for _ in range(CAPTIONS_PER_PICTURE)] for j in views]
            )
            traits.append(trait_vector(dataset.world.identity(dataset.indices[i])))
        return cls(torch.from_numpy(dataset.images), torch.tensor(labels), torch.from_numpy(np.stack(traits)), captions)

    def __len__(self) -> int:
        return self.images.shape[0] * self.images.shape[1]

    @property
    def identities(self) -> int:
        return self.images.shape[0]

    @property
    def views_per_identity(self) -> int:
        return self.images.shape[1]

    def pick(self, step: int, size: int, *, seed: int) -> Int[Tensor, " size"]:
        """Flat numbers of the pictures of one step: without repetition within an epoch, the same at every resume."""
        epoch_length = max(1, len(self) // size)
        epoch, position = divmod(step, epoch_length)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        return order[position * size : (position + 1) * size] if len(self) >= size else order

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


def without_identifier(caption: str) -> str:
    """The caption's meaning: the identifier has none."""
    return caption.replace(f"{IDENTIFIER} ", "")


def _bare(caption: str, rng: np.random.Generator) -> str:
    opening = "a photo of "
    return caption.removeprefix(opening) if rng.random() < BARE_PHOTO else caption


def trait_vector(identity: Identity) -> np.ndarray:
    """What is true of a person, float32: geometry, then skin, eyes, brows, hair and beard."""
    one_hot = [identity.hair_style == style for style in HAIR_STYLES] + [identity.beard == beard for beard in BEARDS]
    colors = (
        identity.melanin,
        identity.redness,
        *identity.iris_color,
        *np.sqrt(identity.hair_color),
        identity.lipstick,
    )
    brow = dataclasses.astuple(identity.brow)
    hair = (identity.hair_volume, identity.hair_length, identity.hairline)
    return np.array([*identity.shape_vector, *colors, *brow, *hair, *one_hot], dtype=np.float32)


class Steps(IterableDataset):
    """Numbers of the training steps still to do: a resumed run goes on with the batches it would have seen."""

    def __init__(self, module: LightningModule, *, num_steps: int):
        self.module, self.num_steps = module, num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.module.global_step, self.num_steps))

    def __len__(self) -> int:
        return self.num_steps

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None)
