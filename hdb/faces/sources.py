"""Where people come from: folders of photos, CelebA, LFW and faceworld become samples and batches.

A source is a map-style dataset over *people*. Its key is (draw, index): which of a person's pictures are taken is a
function of (seed, draw, index) alone, so the same batch can be asked for again after an interruption, in any worker.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from hdb.faces.crop import REASONS, FaceCropper, FaceError, open_picture, square
from hdb.faceworld.captions import IDENTIFIER, INSTANCE_PROMPT, caption
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.view import KINDS

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
People = Mapping[str, Sequence[Path]]


class FaceSample(NamedTuple):
    """One person: the photo given, the picture to be reproduced, and the prompt that describes it."""

    reference: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    prompt: str
    identity: int


class FaceBatch(NamedTuple):
    """Samples, stacked; images in [0, 1]."""

    reference: Float[Tensor, "n 3 h w"]
    target: Float[Tensor, "n 3 h w"]
    prompts: list[str]
    identities: Int[Tensor, " n"]

    @classmethod
    def of(cls, samples: Sequence[FaceSample]) -> "FaceBatch":
        """Stacks samples; the collate function of every loader."""
        references, targets, prompts, identities = zip(*samples, strict=True)
        return cls(torch.stack(references), torch.stack(targets), list(prompts), torch.tensor(identities))


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

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> FaceSample:
        draw, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):  # also what ends `for sample in source`
            raise IndexError(f"identity {index} was asked for, but the source has {len(self)}")
        return self.sample(index, np.random.default_rng([self.seed, draw, index]))

    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        """One sample of person `index`; all chance comes from `rng`."""
        raise NotImplementedError


class PhotoFaces(FaceSource):
    """Photos on disk, grouped by person.

    A picture that cannot be used is named in a warning, counted in `skipped` and replaced by another one of the same
    person, or else by the next person; only a source without any usable picture raises.

    Args:
        people: name -> pictures, from `identity_folders`, `flat_folder`, `celeba` or `lfw`; see also `select`.
        cropper: finds and aligns the face; without it the central square is taken, for pictures that are cropped.
        target: "other" picture of the person where there is one, or the "same" picture as the reference (the paper's).
        prompt: the paper describes everybody by "a [V] face".

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        people: People,
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
        self.skipped = Skipped()

    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        for person in (*range(index, len(self)), *range(index)):
            pictures = self.read_some(person, rng)
            if pictures:
                return FaceSample(pictures[0], pictures[-1], self.prompt, person)
        raise FaceError(f"none of the {sum(map(len, self.pictures))} pictures can be used: {self.skipped.counts}")

    def read_some(self, person: int, rng: np.random.Generator) -> list[Float[Tensor, "3 h w"]]:
        """As many usable pictures of a person as a sample takes, drawn without replacement."""
        pictures = []
        for choice in rng.permutation(len(self.pictures[person])):
            path = self.pictures[person][choice]
            try:
                if self.cropper is None:
                    pictures.append(square(open_picture(path), resolution=self.resolution))
                else:
                    pictures.append(self.cropper.crop(path, resolution=self.resolution))
            except FaceError as error:
                self.skipped.add(error.reason, str(error))
            if len(pictures) == self.num_pictures:
                break
        return pictures


class FaceworldFaces(FaceSource):
    """People who do not exist: the reference is a plain view, the target another view of the same person.

    A plain target has the instance prompt, as at personalization; any other target the caption that says what it shows
    beyond the person, "a [V] face in the snow, oil painting".

    Paper: the target is the reference. Here: another view, where the world has one, because then reproducing the
    backdrop and pose of the photo earns nothing.

    Args:
        target_views: "plain", "all", or "same" (the paper's variant).
    """

    def __init__(self, dataset: FaceWorldDataset, *, target_views: str = "all", seed: int = 0):
        super().__init__([str(index) for index in dataset.indices], seed=seed)
        self.dataset = dataset
        self.target_views = one_of(target_views, ("plain", "all", "same"), "target_views")
        kinds = [KINDS[view % len(KINDS)] for view in range(dataset.views_per_identity)]
        self.plain_views = [view for view, kind in enumerate(kinds) if kind == "plain"]
        if target_views == "plain" and len(self.plain_views) < 2:
            raise ValueError(f"another plain view needs at least 2 of them; {len(kinds)} views per identity hold 1")

    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        reference = int(rng.choice(self.plain_views))
        candidates = self.plain_views if self.target_views == "plain" else range(self.dataset.views_per_identity)
        others = [view for view in candidates if view != reference]
        target = reference if self.target_views == "same" or not others else int(rng.choice(others))
        plain = target in self.plain_views
        prompt = INSTANCE_PROMPT if plain else caption(self.dataset.view(index, target), identifier=IDENTIFIER)
        return FaceSample(self.image(index, reference), self.image(index, target), prompt, int(self.names[index]))

    def image(self, index: int, view: int) -> Float[Tensor, "3 h w"]:
        """A cached picture as float32 in [0, 1]."""
        return torch.from_numpy(np.array(self.dataset.image(index, view))).float() / 255


def identity_folders(root: str | Path) -> People:
    """A folder per identity: root/<name>/*.jpg."""
    people = {folder.name: pictures_in(folder) for folder in sorted(existing(root).iterdir()) if folder.is_dir()}
    return refuse_empty({name: pictures for name, pictures in people.items() if pictures}, root, "<name>/<picture>")


def flat_folder(root: str | Path) -> People:
    """A folder in which every picture is a person of its own: FFHQ, SFHQ, CelebA-HQ as the paper used it."""
    return refuse_empty({path.name: [path] for path in pictures_in(existing(root))}, root, "<picture>")


def celeba(root: str | Path, *, split: str = "train") -> People:
    """CelebA with its identity labels, laid out for torchvision: root/celeba/{img_align_celeba/,*.txt}."""
    with say_missing("CelebA", Path(root) / "celeba"):
        data = torchvision.datasets.CelebA(root, split=split, target_type="identity")
    folder = Path(root) / "celeba" / "img_align_celeba"
    return group((f"{int(label):05d}", folder / name) for label, name in zip(data.identity, data.filename, strict=True))


def lfw(root: str | Path, *, split: str = "train") -> People:
    """Labeled Faces in the Wild, funneled, laid out for torchvision: root/lfw-py/{lfw_funneled/,*.txt}."""
    with say_missing("LFW", Path(root) / "lfw-py"):
        data = torchvision.datasets.LFWPeople(str(root), split=split)
    return group((Path(path).parent.name, Path(path)) for path in data.data)


@contextmanager
def say_missing(name: str, folder: Path) -> Iterator[None]:
    """Turns torchvision's errors into one sentence."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{name} is missing or damaged in {folder} and is not downloaded; "
            f"put it there as torchvision's documentation of {name} says ({error})"
        ) from None


def select(people: People, names: Sequence[str]) -> People:
    """Only these people, in this order: a stored split.

    Raises:
        ValueError: a name twice, or a name that is not there.
    """
    refuse_duplicates(names)
    unknown = [name for name in names if name not in people]
    if unknown:
        raise ValueError(f"{len(unknown)} of {len(names)} identities are not in the data, first {unknown[0]!r}")
    return {name: people[name] for name in names}


def refuse_duplicates(names: Iterable[str]) -> None:
    """Raises ValueError naming the first identity that is listed twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"identity {name!r} is listed twice; expected each identity once")
        seen.add(name)


def refuse_overlap(**splits: Sequence[str]) -> None:
    """Raises ValueError when two splits share an identity, as in refuse_overlap(train=[...], test=[...])."""
    pairs = [(a, b) for i, a in enumerate(splits) for b in list(splits)[i + 1 :]]
    for first, second in pairs:
        shared = sorted(set(splits[first]) & set(splits[second]))
        if shared:
            given = f"{len(shared)} identities are in both {first} and {second}, first {shared[0]!r}"
            raise ValueError(f"{given}; splits must be disjoint")


def group(pictures: Iterable[tuple[str, Path]]) -> People:
    """(name, picture) pairs as name -> pictures, sorted by name."""
    people: dict[str, list[Path]] = {}
    for name, path in pictures:
        people.setdefault(name, []).append(path)
    return dict(sorted(people.items()))


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def existing(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise ValueError(f"{root} is no folder; expected a folder of pictures")
    return Path(root)


def refuse_empty(people: People, root: str | Path, layout: str) -> People:
    if not people:
        raise ValueError(f"{root} holds no picture; expected {root}/{layout} with one of {', '.join(SUFFIXES)}")
    return people


def one_of(value: str, known: Sequence[str], name: str) -> str:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    return value
