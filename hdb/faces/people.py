"""The people of a source, by split, and their pictures."""

import os
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.faces.artifacts import download
from hdb.faces.caches import CacheKeys
from hdb.faces.crop import FaceCropper
from hdb.faces.duplicates import drop_duplicate_photos
from hdb.faces.names import unique_file_names
from hdb.faces.options import TARGETS, PeopleOptions
from hdb.faces.photos import PhotoListing, celeba, detect_source, flat_folder, identity_folders, lfw, select
from hdb.faces.shards import IdentityFilter, ShardFaces, list_shards, read_shard_photos
from hdb.faces.sources import FaceSource, PhotoFaces, check_choice
from hdb.faces.splits import SPLITS_FILE, Splits, refuse_overlap

READERS = {"folders": identity_folders, "flat": flat_folder, "celeba": celeba, "lfw": lfw}
SOURCES = (*READERS, "shards", "artifact", "faceworld")


class References(NamedTuple):
    """Reference photos of the people of an evaluation, and one photo each of further people of the same split."""

    names: list[str]
    photos: Float[Tensor, "n v 3 h w"]
    others: Float[Tensor, "m 3 h w"]


class PeopleSource(ABC):
    """Everybody in a source of people: `People` of photos, or those of a drawn world.

    `options` say which source; `splits` who is in train, val and test.
    """

    options: PeopleOptions
    splits: Splits

    @abstractmethod
    def faces(self, split: str) -> FaceSource:
        """The people of train, val or test, each addressed by number."""

    @abstractmethod
    def training(self, *, cache_digests: tuple[str, str] | None = None) -> FaceSource | ShardFaces:
        """The people to train on.

        Args:
            cache_digests: digests of the autoencoder and the encoder whose caches lie beside the shards, to be read.
        """

    @abstractmethod
    def references(self, split: str, *, num_identities: int, num_references: int, num_gallery: int) -> References:
        """Photos of the first people of a split.

        Args:
            num_identities: people with `num_references` photos each.
            num_gallery: people in all; those beyond `num_identities`, as far as there are some, have one photo each.

        Raises:
            ValueError: the split has fewer than `num_identities` people with a usable photo.
        """

    @abstractmethod
    def refuse_trained(self, hypernet: Path) -> None:
        """Raises ValueError if a hypernetwork was trained on somebody of the test split."""


class People(PeopleSource):
    """Everybody in a source of photos, listed by split.

    `has_listed_splits` says whether a file lists them.

    Raises:
        ValueError: nobody is there, or an identity is in two splits.
    """

    def __init__(self, options: PeopleOptions):
        check_choice(options.source, (*READERS, "shards", "artifact"), "faces.source")
        for name, minimum in (("num_identities", 1), ("num_val_identities", 0), ("num_test_identities", 0)):
            num = getattr(options, name)
            if num is not None and num < minimum:
                raise ValueError(f"faces.{name} is {num}, expected at least {minimum}")
        data = f"{options.source} {os.path.normpath(options.root)}"
        if options.source == "artifact":
            root = download(options.root)
            options = replace(options, source=detect_source(root), root=root)
        self.options = options
        self.photos: PhotoListing | None = None
        if options.source in READERS:
            self.photos = READERS[options.source](options.root)
        self.splits = self._read_splits(data)
        check_choice(options.target, TARGETS[:2], "faces.target")  # before networks are read
        if self.photos is not None:
            self.photos, self.splits = drop_duplicate_photos(self.photos, self.splits)

    def _read_splits(self, data: str) -> Splits:
        """The splits of a file, or those that follow from the options; `data` is what the names are names in."""
        options = self.options
        file = Path(options.splits or Path(options.root, SPLITS_FILE))
        self.has_listed_splits = bool(options.splits) or file.is_file()
        if self.has_listed_splits:
            splits = Splits.load(file)
            train = splits.train and splits.train[: options.num_identities]
            val = splits.val[: options.num_val_identities]
            return replace(splits, train=train, val=val, data=splits.data or data)
        num_val, num_test = options.num_val_identities, options.num_test_identities
        if self.photos is not None:
            splits = Splits.from_names(sorted(self.photos), num_val=num_val, num_test=num_test)
            return replace(splits, train=splits.train[: options.num_identities], data=data)
        test = list(read_shard_photos(list_shards(options.root, split="test"), num=num_test))
        val = list(read_shard_photos(list_shards(options.root, split="val"), held_out=test, num=num_val))
        return Splits(None, val, test, data)

    def faces(self, split: str) -> PhotoFaces:
        """The people of train, val or test, each addressed by number; the pictures of shards are held in memory."""
        options = self.options
        names = getattr(self.splits, split)
        photos = self.photos
        if photos is None:
            other_splits = [other for other in ("val", "test") if other != split]
            photos = read_shard_photos(
                list_shards(options.root, split=split),
                names=names,
                held_out={name for other in other_splits for name in getattr(self.splits, other)},
                num=options.num_identities if names is None else len(names),
            )
            names = list(photos) if names is None else names
        if not names:
            raise ValueError(f"{options.root} has no {split} identities, expected at least one")
        return PhotoFaces(
            select(photos, names),
            resolution=options.resolution,
            cropper=self.cropper,
            target=options.target,
            split=split,
            seed=options.seed,
        )

    def training(self, *, cache_digests: tuple[str, str] | None = None) -> FaceSource | ShardFaces:
        """The people to train on: shards as a stream, in epochs of `num_identities` samples."""
        options, names = self.options, self.splits.train
        if options.source != "shards":
            return self.faces("train")
        if names == []:
            raise ValueError(f"{options.root} has no train identities, expected at least one")
        num_samples = options.num_identities
        if names is not None:
            num_samples = min(num_samples or len(names), len(names))
        shards = ShardFaces(
            list_shards(options.root, split="train"),
            resolution=options.resolution,
            num_samples=num_samples,
            identities=IdentityFilter(names, held_out=self.splits.val + self.splits.test),
            cropper=self.cropper,
            target=options.target,
            seed=options.seed,
        )
        if cache_digests is not None:
            autoencoder, encoder = cache_digests
            shards.use_caches(CacheKeys(autoencoder, encoder, options.resolution))
        return shards

    def references(self, split: str, *, num_identities: int, num_references: int, num_gallery: int) -> References:
        """Photos of the first people of a split that have a usable one."""
        faces = self.faces(split)
        names: list[str] = []
        photos: list[Tensor] = []
        others: list[Tensor] = []
        for index, name in enumerate(faces.names):
            is_evaluated = len(names) < num_identities
            references = faces.references(index, num_draws=num_references if is_evaluated else 1)
            if not references:
                continue
            if is_evaluated:
                names.append(name)
                photos.append(torch.stack(references))
            else:
                others.append(references[0])
            if len(names) + len(others) == num_gallery:
                break
        if len(names) < num_identities:
            usable = f"{len(names)} of the {len(faces)} {split} people of {self.options.root} have a usable picture"
            raise ValueError(f"num_identities is {num_identities}, but {usable}")
        stacked = torch.stack(photos)
        return References(unique_file_names(names), stacked, torch.stack(others) if others else stacked[:0, 0])

    def refuse_trained(self, hypernet: Path) -> None:
        """Raises ValueError if a hypernetwork was trained on somebody of the test split."""
        refuse_trained(self.splits, hypernet)

    @property
    def cropper(self) -> FaceCropper | None:
        """The cropper of the photos; shards hold faces already."""
        crop = self.options.crop
        if crop is None:
            crop = self.options.source != "shards"
        return FaceCropper() if crop else None


def refuse_trained(splits: Splits, hypernet: Path) -> None:
    """Raises ValueError if somebody of the test split is among those that a hypernetwork was trained on."""
    file = (hypernet if hypernet.is_dir() else hypernet.parent) / SPLITS_FILE
    if not file.is_file():
        return
    trained = Splits.load(file)
    if trained.data != splits.data:  # names in another dataset
        return
    train = trained.train
    if train is None:  # everybody who was not held out
        held_out = {*trained.val, *trained.test}
        train = [name for name in splits.test if name not in held_out]
    try:
        refuse_overlap(train=train, test=splits.test)
    except ValueError as error:
        raise ValueError(f"{error}; faces.splits={file} tests others than {hypernet} was trained on") from None
