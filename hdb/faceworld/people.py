"""People of faceworld as a source of training samples and of an evaluation's references."""

import random
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hdb.faces.options import TARGETS, PeopleOptions
from hdb.faces.people import PeopleSource, References
from hdb.faces.sources import FaceSample, FaceSource, ViewChoice, check_choice
from hdb.faces.splits import Splits
from hdb.faceworld.captions import caption
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.splits import SPLITS
from hdb.faceworld.view import KINDS
from hdb.faceworld.world import FaceWorld
from hdb.prompts import IDENTIFIER


class FaceworldFaces(FaceSource):
    """Samples of people who do not exist: the reference is a plain view, the target another view of the same person.

    The prompt is the caption of the target and says everything it shows beyond the person: "a [V] face in the snow,
    oil painting". Captions of plain targets lose "a photo of", so that a neutral one has the instance prompt
    "a [V] face", as at personalization, and a smiling one "a [V] face smiling".

    Paper: the target is the reference. Here: another view, where the world has one, because then reproducing the
    backdrop and pose of the photo earns nothing.

    Args:
        target_views: "plain", "all", or "same" (the paper's variant).
    """

    def __init__(self, dataset: FaceWorldDataset, *, target_views: str = "all", seed: int = 0):
        super().__init__([str(index) for index in dataset.indices], seed=seed)
        self.dataset = dataset
        check_choice(target_views, ("plain", "all", "same"), "target_views")
        self.target_views = target_views
        kinds = [KINDS[view % len(KINDS)] for view in range(dataset.views_per_identity)]
        self.plain_views = [view for view, kind in enumerate(kinds) if kind == "plain"]
        if target_views == "plain" and len(self.plain_views) < 2:
            raise ValueError(f"another plain view needs at least 2 of them; {len(kinds)} views per identity hold 1")

    @property
    def num_views(self) -> int:
        return self.dataset.views_per_identity

    @property
    def reference_views(self) -> list[int]:
        return self.plain_views

    def sample(self, index: int, rng: np.random.Generator) -> FaceSample:
        choice = self.choose(index, rng)
        return FaceSample(
            reference=self.image(index, choice.reference),
            target=self.image(index, choice.target),
            prompt=choice.prompt,
            identity=choice.identity,
            photo=choice.photo,
        )

    def choose(self, index: int, rng: np.random.Generator) -> ViewChoice:
        """Draws the views of a sample of person `index` with `rng` alone."""
        reference = int(rng.choice(self.plain_views))
        candidates = self.plain_views if self.target_views == "plain" else range(self.dataset.views_per_identity)
        others = [view for view in candidates if view != reference]
        target = reference if self.target_views == "same" or not others else int(rng.choice(others))
        view = self.dataset.view(index, target)
        prompt = caption(view, identifier=IDENTIFIER)
        if target in self.plain_views:
            prompt = prompt.removeprefix("a photo of ")
        return ViewChoice(
            reference=reference,
            target=target,
            prompt=prompt,
            identity=int(self.names[index]),
            photo=view.style == "photo",
        )

    def image(self, index: int, view: int) -> Float[Tensor, "3 h w"]:
        """A cached picture as float32 in [0, 1]."""
        return torch.from_numpy(self.dataset.image(index, view)).float() / 255


class FaceworldPeople(PeopleSource):
    """Everybody in faceworld, listed by split; names are the world's numbers of people."""

    def __init__(self, options: PeopleOptions):
        self.options = options
        check_choice(options.target, TARGETS[1:], "faces.target")

    @cached_property
    def world(self) -> FaceWorld:
        """The world that these people live in."""
        return FaceWorld(seed=self.options.seed, resolution=self.options.resolution)

    @cached_property
    def splits(self) -> Splits:
        """The first people of the world's own splits.

        Raises:
            ValueError: more people than a split has, or a file of other splits.
        """
        options = self.options
        if options.splits is not None:
            raise ValueError(f"faces.splits is {options.splits}, but faceworld has splits of its own; expected null")
        names = {}
        for split, num in (("train", options.num_identities), ("val", options.num_val_identities), ("test", None)):
            people = SPLITS[split]
            if num is not None and not 1 <= num <= len(people):
                raise ValueError(f"{num} {split} identities asked for; faceworld has 1 to {len(people)}")
            names[split] = [str(person) for person in people[:num]]
        return Splits(**names, data=f"faceworld of seed {options.seed}")

    def faces(self, split: str) -> FaceworldFaces:
        """The people of train, val or test; renders those that are not on disk yet."""
        pictures = render_people(self.options, indices=[int(name) for name in getattr(self.splits, split)])
        return FaceworldFaces(pictures, target_views=self.options.target, seed=self.options.seed)

    def training(self, *, cache_digests: tuple[str, str] | None = None) -> FaceworldFaces:
        """The people to train on; caches lie beside shards of photos only."""
        return self.faces("train")

    def references(self, split: str, *, num_identities: int, num_references: int, num_gallery: int) -> References:
        """Plain views, photos in a studio, of the first people of a split."""
        people = SPLITS[split]
        if num_identities > len(people):
            raise ValueError(f"num_identities is {num_identities}, but faceworld has {len(people)} {split} people")
        names = [str(person) for person in people[:num_identities]]
        plain_views = range(0, len(KINDS) * num_references, len(KINDS))
        pairs = [
            (self.world.identity(person), self.world.view(person, view))
            for person in people[:num_identities]
            for view in plain_views
        ]
        photos = self.world.render(pairs).unflatten(0, (num_identities, num_references))
        others = photos[:0, 0]
        further = people[num_identities:num_gallery]
        if further:
            dataset = render_people(replace(self.options, views_per_identity=1), indices=list(further))
            others = torch.from_numpy(dataset.images[:, 0]).float() / 255
        return References(names, photos, others)

    def refuse_trained(self, hypernet: Path) -> None:
        """Does nothing: the splits of the world are disjoint, and only people of its training split are trained on."""


def draw_test_face(world: FaceWorld) -> tuple[str, Float[Tensor, "3 h w"]]:
    """The name and a plain view of a random test person."""
    person = random.choice(SPLITS["test"])
    return str(person), world.render([(world.identity(person), world.view(person, 0))])[0]


def render_people(options: PeopleOptions, *, indices: list[int]) -> FaceWorldDataset:
    """These people of faceworld; renders those that are not on disk yet."""
    dataset = FaceWorldDataset(
        options.root,
        indices=indices,
        views_per_identity=options.views_per_identity,
        seed=options.seed,
        resolution=options.resolution,
    )
    dataset.prepare(num_workers=options.render_workers, progress=True)
    return dataset
