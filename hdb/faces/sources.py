"""Turns photos of people into training samples and batches.

A source is a map-style dataset over people. Its key is (draw, index): which of a person's pictures are taken is a
function of (seed, draw, index) alone, so an interrupted run can ask for the same batch again, from any worker.
"""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from hdb.faces.caches import CachedTensors, stack_cached
from hdb.faces.crop import FaceCropper
from hdb.faces.photo_files import REASONS, FaceError
from hdb.faces.photos import Photos
from hdb.faces.picture import FaceCrop, Picture, StoredPicture, center_square, crash_message, open_picture
from hdb.faces.splits import refuse_duplicates
from hdb.prompts import INSTANCE_PROMPT


class FaceSample(NamedTuple):
    """One person: the reference photo, and the target that is to be reproduced from the prompt.

    Args:
        identity: number of the person, the same in every split and run.
        photo: whether the target is a photograph, no painting or statue.
        cached: what frozen networks make of the two pictures, if that is kept.
        target_side: of the target in pixels of its photo, before it was resized, if that is known.
    """

    reference: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    prompt: str
    identity: int
    photo: bool = True
    cached: CachedTensors | None = None
    target_side: int | None = None


class ViewChoice(NamedTuple):
    """A sample before its pictures are read: which views of a person, and what is said of the target."""

    reference: int
    target: int
    prompt: str
    identity: int
    photo: bool


class FaceBatch(NamedTuple):
    """Samples, stacked; images in [0, 1].

    If `photos` is None all targets are photographs. `target_sides` is None where one of them is not known.
    """

    reference: Float[Tensor, "n 3 h w"]
    target: Float[Tensor, "n 3 h w"]
    prompts: list[str]
    identities: Int[Tensor, " n"]
    photos: Bool[Tensor, " n"] | None = None
    cached: CachedTensors | None = None
    target_sides: Int[Tensor, " n"] | None = None

    @classmethod
    def from_samples(cls, samples: Sequence[FaceSample]) -> "FaceBatch":
        """Stacks samples; the collate function of every loader."""
        sides = [sample.target_side for sample in samples]
        return cls(
            reference=torch.stack([sample.reference for sample in samples]),
            target=torch.stack([sample.target for sample in samples]),
            prompts=[sample.prompt for sample in samples],
            identities=torch.tensor([sample.identity for sample in samples]),
            photos=torch.tensor([sample.photo for sample in samples]),
            cached=stack_cached([sample.cached for sample in samples]),
            target_sides=None if None in sides else torch.tensor(sides),
        )


class SkipCounter:
    """Counts by reason what cannot be used, over all worker processes.

    Each worker has a row in shared memory: no lock is needed, and the main process sees all counts.
    """

    def __init__(self, reasons: Sequence[str] = REASONS):
        self.reasons = tuple(reasons)
        self.rows = torch.zeros(257, len(self.reasons), dtype=torch.int64).share_memory_()

    def add(self, reason: str, message: str) -> None:
        """Counts one picture or sample and names it in a warning."""
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % 256
        self.rows[row, self.reasons.index(reason)] += 1
        warnings.warn(f"skipped ({reason}): {message}", stacklevel=2)

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number, without the zeros."""
        totals = self.rows.sum(0).tolist()
        return {reason: total for reason, total in zip(self.reasons, totals, strict=True) if total}


class FaceSource(Dataset):
    """People by name; `source[draw, index]` is a sample of person `index`, `source[index]` that of draw 0.

    Raises:
        ValueError: no people, or the same name twice.
    """

    def __init__(self, names: Sequence[str], *, seed: int):
        if not names:
            raise ValueError("a face source needs at least one identity, but got none")
        refuse_duplicates(names)
        self.names = list(names)
        self.seed = seed
        self.skipped = SkipCounter()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> FaceSample:
        draw, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):  # also what ends `for sample in source`
            raise IndexError(f"identity {index} was asked for, but the source has {len(self)}")
        return self.sample(index, np.random.default_rng([self.seed, draw, index]))

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        """Draws one sample of person `index` with `rng` alone."""


class PhotoFaces(FaceSource):
    """Photos, listed by person; the integer identity is `identity_number` of the name.

    A picture that cannot be used is named in a warning, counted in `skipped` and replaced by another one of the same
    person, or else by the next person. Only a source without any usable picture raises.

    Args:
        photos: name -> pictures, as `hdb.faces.photos` and `read_shard_photos` list them; see also `select`.
        cropper: finds and aligns the face; without it the central square is taken, for pictures that are face crops.
        target: "other" picture of the person if there is one, or the "same" picture as the reference (the paper's).
        prompt: the paper describes everybody by "a [V] face".
        split: that these people are of, for messages.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        photos: Photos,
        *,
        resolution: int,
        cropper: FaceCropper | None = None,
        target: str = "other",
        prompt: str = INSTANCE_PROMPT,
        split: str = "",
        seed: int = 0,
    ):
        super().__init__(list(photos), seed=seed)
        self.split = split
        self.pictures = [list(pictures) for pictures in photos.values()]
        self.resolution = resolution
        self.cropper = cropper
        self.prompt = prompt
        self.num_pictures = num_pictures_of(target)

    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        for person in (*range(index, len(self)), *range(index)):
            usable = self.read_pictures(person, rng)
            if usable:
                name = self.names[person]
                reference, target = usable[0], usable[-1]
                return FaceSample(
                    reference.pixels, target.pixels, self.prompt, identity_number(name), target_side=target.side
                )
        num_pictures = sum(len(pictures) for pictures in self.pictures)
        name = f"{self.split} pictures" if self.split else "pictures"
        raise FaceError(f"none of the {num_pictures} {name} can be used: {self.skipped.counts}")

    def references(self, index: int, *, num_draws: int) -> list[Float[Tensor, "3 h w"]]:
        """The references of the first samples of a person, each photo decoded once; empty if none can be used."""
        pictures = self.pictures[index]
        decoded: dict[int, Tensor | None] = {}
        references = []
        for draw in range(num_draws):
            order = np.random.default_rng([self.seed, draw, index]).permutation(len(pictures)).tolist()
            for choice in order:
                if choice not in decoded:
                    usable = self._read_usable([pictures[choice]], num=1)
                    decoded[choice] = usable[0].pixels if usable else None
                if decoded[choice] is not None:
                    references.append(decoded[choice])
                    break
        return references

    def read_pictures(self, person: int, rng: np.random.Generator) -> list[FaceCrop]:
        """Reads as many usable pictures of a person as a sample takes, drawn without replacement."""
        pictures = self.pictures[person]
        return self._read_usable([pictures[choice] for choice in rng.permutation(len(pictures))], num=self.num_pictures)

    def _read_usable(self, pictures: Sequence[Picture], *, num: int) -> list[FaceCrop]:
        usable = read_usable(pictures, num=num, resolution=self.resolution, cropper=self.cropper, skipped=self.skipped)
        return [crop for _, crop in usable]


def read_usable(
    pictures: Sequence[Picture], *, num: int, resolution: int, cropper: FaceCropper | None, skipped: SkipCounter
) -> list[tuple[Picture, FaceCrop]]:
    """Reads pictures until `num` are usable, and counts the others. Without a cropper the central square is taken."""
    usable: list[tuple[Picture, FaceCrop]] = []
    for picture in pictures:
        try:
            if cropper is None:
                image = open_picture(picture)
                crop = FaceCrop(center_square(image, resolution=resolution), min(image.size))
            else:
                crop = cropper.cut(picture, resolution=resolution, crop=True)
            if isinstance(picture, StoredPicture) and picture.side is not None:
                crop = replace(crop, side=picture.side)
            usable.append((picture, crop))
        except FaceError as error:
            skipped.add(error.reason, str(error))
        except Exception as error:  # whatever one photo makes a library raise, training goes on
            skipped.add("crashed", crash_message(picture, error))
        if len(usable) == num:
            break
    return usable


def identity_number(name: str) -> int:
    """A name as 63 bits of its sha256: the same in every run, process and split, unlike a position or `hash`."""
    # a foreign shard may hold a name that is no UTF-8
    digest = sha256(name.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def num_pictures_of(target: str) -> int:
    """How many pictures a sample takes with a target, "other" or "same"."""
    check_choice(target, ("other", "same"), "target")
    return 2 if target == "other" else 1


def check_choice(value: str, choices: Sequence[str], name: str) -> None:
    """Raises ValueError if a setting is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
