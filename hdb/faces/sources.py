"""Where people come from: photos become samples and batches.

A source is a map-style dataset over *people*. Its key is (draw, index): which of a person's pictures are taken is a
function of (seed, draw, index) alone, so the same batch can be asked for again after an interruption, in any worker.
"""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from hdb.faces.caches import Cached, stacked
from hdb.faces.crop import FaceCropper
from hdb.faces.photos import Photos
from hdb.faces.picture import REASONS, FaceError, Picture, crashed, open_picture, square
from hdb.faces.splits import refuse_duplicates
from hdb.prompts import INSTANCE_PROMPT


class FaceSample(NamedTuple):
    """One person: the photo given, and the picture to be reproduced: its prompt, and whether it is a photograph."""

    reference: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    prompt: str
    identity: int
    photo: bool = True
    cached: Cached | None = None


class FaceBatch(NamedTuple):
    """Samples, stacked; images in [0, 1]. Where `photos` is None all targets are photographs, no painting or statue.

    `cached` is what frozen networks make of them, where that was kept.
    """

    reference: Float[Tensor, "n 3 h w"]
    target: Float[Tensor, "n 3 h w"]
    prompts: list[str]
    identities: Int[Tensor, " n"]
    photos: Bool[Tensor, " n"] | None = None
    cached: Cached | None = None

    @classmethod
    def of(cls, samples: Sequence[FaceSample]) -> "FaceBatch":
        """Stacks samples; the collate function of every loader."""
        references, targets, prompts, identities, photos, cached = zip(*samples, strict=True)
        return cls(
            torch.stack(references),
            torch.stack(targets),
            list(prompts),
            torch.tensor(identities),
            torch.tensor(photos),
            stacked(list(cached)),
        )


class Skipped:
    """Counts by reason what could not be used, over all worker processes.

    A row per worker in shared memory: no lock is needed and the main process sees every worker's count.
    """

    def __init__(self, reasons: Sequence[str] = REASONS):
        self.reasons = tuple(reasons)
        self.rows = torch.zeros(257, len(self.reasons), dtype=torch.int64).share_memory_()

    def add(self, reason: str, message: str) -> None:
        """Counts one and names it in a warning."""
        worker = get_worker_info()
        self.rows[0 if worker is None else 1 + worker.id % 256, self.reasons.index(reason)] += 1
        warnings.warn(f"skipped ({reason}): {message}", stacklevel=2)

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number, without the zeros."""
        return {reason: int(n) for reason, n in zip(self.reasons, self.rows.sum(0), strict=True) if n}


class FaceSource(Dataset):
    """People by name; `source[draw, index]` is a sample of person `index`, `source[index]` that of draw 0.

    Raises:
        ValueError: no people, or the same name twice.
    """

    def __init__(self, names: Sequence[str], *, seed: int):
        if not names:
            raise ValueError("a face source needs at least one identity, but got none")
        refuse_duplicates(names)
        self.names, self.seed = list(names), seed
        self.skipped = Skipped()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> FaceSample:
        draw, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):  # also what ends `for sample in source`
            raise IndexError(f"identity {index} was asked for, but the source has {len(self)}")
        return self.sample(index, np.random.default_rng([self.seed, draw, index]))

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        """One sample of person `index`; all chance comes from `rng`."""


class PhotoFaces(FaceSource):
    """Photos, listed by person; the integer identity is `identity_number` of the name.

    A picture that cannot be used is named in a warning, counted in `skipped` and replaced by another one of the same
    person, or else by the next person; only a source without any usable picture raises.

    Args:
        people: name -> pictures, as `hdb.faces.photos` and `shard_photos` list them; see also `select`.
        cropper: finds and aligns the face; without it the central square is taken, for pictures that are cropped.
        target: "other" picture of the person where there is one, or the "same" picture as the reference (the paper's).
        prompt: the paper describes everybody by "a [V] face".

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        people: Photos,
        *,
        resolution: int,
        cropper: FaceCropper | None = None,
        target: str = "other",
        prompt: str = INSTANCE_PROMPT,
        seed: int = 0,
    ):
        super().__init__(list(people), seed=seed)
        self.pictures = [list(pictures) for pictures in people.values()]
        self.resolution, self.cropper, self.prompt = resolution, cropper, prompt
        self.num_pictures = {"other": 2, "same": 1}[one_of(target, ("other", "same"), "target")]

    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        for person in (*range(index, len(self)), *range(index)):
            pictures = self.read_some(person, rng)
            if pictures:
                return FaceSample(pictures[0], pictures[-1], self.prompt, identity_number(self.names[person]))
        raise FaceError(f"none of the {sum(map(len, self.pictures))} pictures can be used: {self.skipped.counts}")

    def references(self, index: int, *, num_draws: int) -> list[Float[Tensor, "3 h w"]]:
        """The references of the first samples of a person, each photo decoded once; empty if none can be used."""
        pictures = self.pictures[index]
        decoded: dict[int, Tensor | None] = {}
        references = []
        for draw in range(num_draws):
            for choice in np.random.default_rng([self.seed, draw, index]).permutation(len(pictures)).tolist():
                if choice not in decoded:
                    usable = read_pictures(
                        [pictures[choice]],
                        num=1,
                        resolution=self.resolution,
                        cropper=self.cropper,
                        skipped=self.skipped,
                    )
                    decoded[choice] = usable[0] if usable else None
                if decoded[choice] is not None:
                    references.append(decoded[choice])
                    break
        return references

    def read_some(self, person: int, rng: np.random.Generator) -> list[Float[Tensor, "3 h w"]]:
        """As many usable pictures of a person as a sample takes, drawn without replacement."""
        pictures = self.pictures[person]
        drawn = [pictures[choice] for choice in rng.permutation(len(pictures))]
        return read_pictures(
            drawn, num=self.num_pictures, resolution=self.resolution, cropper=self.cropper, skipped=self.skipped
        )


def read_pictures(
    pictures: Sequence[Picture], *, num: int, resolution: int, cropper: FaceCropper | None, skipped: Skipped
) -> list[Float[Tensor, "3 h w"]]:
    """The pixels of `usable_pictures`."""
    usable = usable_pictures(pictures, num=num, resolution=resolution, cropper=cropper, skipped=skipped)
    return [pixels for _, pixels in usable]


def usable_pictures(
    pictures: Sequence[Picture], *, num: int, resolution: int, cropper: FaceCropper | None, skipped: Skipped
) -> list[tuple[Picture, Float[Tensor, "3 h w"]]]:
    """The first `num` usable ones; the others are counted. Without a cropper the central square is taken."""
    usable: list[tuple[Picture, Float[Tensor, "3 h w"]]] = []
    for picture in pictures:
        try:
            if cropper is None:
                usable.append((picture, square(open_picture(picture), resolution=resolution)))
            else:
                usable.append((picture, cropper.crop(picture, resolution=resolution)))
        except FaceError as error:
            skipped.add(error.reason, str(error))
        except Exception as error:  # whatever a photo brings a library to: it is that photo's, and not the training's
            skipped.add("crashed", crashed(picture, error))
        if len(usable) == num:
            break
    return usable


def identity_number(name: str) -> int:
    """A name as 63 bits of its sha256: the same in every run, process and split, unlike a position or `hash`."""
    # a foreign shard may hold a name that is no UTF-8
    return int.from_bytes(sha256(name.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


def one_of(value: str, known: Sequence[str], name: str) -> str:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    return value
