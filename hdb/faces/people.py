"""Who is in which split of a source, and their pictures."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from hdb import limits
from hdb.faces.artifacts import download
from hdb.faces.caches import CacheKeys
from hdb.faces.copies import apart
from hdb.faces.crop import FaceCropper
from hdb.faces.photos import Listed, celeba, flat_folder, identity_folders, kind_of, lfw, select
from hdb.faces.shards import ShardFaces, Wanted, list_shards, shard_photos
from hdb.faces.sources import FaceSource, FaceworldFaces, PhotoFaces, one_of
from hdb.faces.splits import Splits, refuse_overlap
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.world import SPLITS

READERS = {"folders": identity_folders, "flat": flat_folder, "celeba": celeba, "lfw": lfw}
TARGETS = ("other", "same", "all", "plain")  # of photos the first two, of faceworld all but the first
SPLITS_FILE = "splits.json"  # beside prepared shards, and in the folder of every run


@dataclass
class PeopleOptions:
    """Where people come from.

    `source` is folders (one per identity), flat (each picture an identity), celeba, lfw, shards, artifact or faceworld;
    `root` their folder, for shards also a pattern like https://host/faces-{000..099}.tar, for artifact the W&B name
    entity/project/name:alias of folders, flat pictures or shards. `splits` is a JSON file with the lists train, val and
    test; null takes root/splits.json where there is one, else the last people are for test, those before for
    validation; of shards that nobody listed the first are. Null `num_identities` trains on everybody else.

    `target` is the picture that a prediction must explain: the same as the reference (paper), other, or on faceworld
    all or plain. `crop` null crops all but shards. `render_workers` render what of faceworld is not on disk yet, by
    default one per core.
    """

    source: str = "flat"
    root: str = "data/celeba-hq"
    splits: str | None = None
    resolution: int = limits.between(512, 1)
    num_identities: int | None = 15000
    num_val_identities: int = 100
    num_test_identities: int = 100
    views_per_identity: int = limits.between(12, 1)
    target: str = limits.one_of("same", *TARGETS)
    crop: bool | None = None
    render_workers: int | None = limits.between(None, 0)
    seed: int = limits.a_seed()


class People:
    """Everybody in a source, listed by split: `splits`.

    Raises:
        ValueError: nobody there, or an identity in two splits.
    """

    def __init__(self, options: PeopleOptions):
        one_of(options.source, (*READERS, "shards", "artifact", "faceworld"), "faces.source")
        self.photos: Listed | None = None
        if options.source == "faceworld":
            self.options, self.splits = options, faceworld_splits(options)
            one_of(options.target, TARGETS[1:], "faces.target")
            return
        for name, least in (("num_identities", 1), ("num_val_identities", 0), ("num_test_identities", 0)):
            if (num := getattr(options, name)) is not None and num < least:
                raise ValueError(f"faces.{name} is {num}, expected at least {least}")
        data = f"{options.source} {os.path.normpath(options.root)}"
        if options.source == "artifact":
            root = download(options.root)
            options = replace(options, source=kind_of(root), root=root)
        self.options = options
        if options.source in READERS:
            self.photos = READERS[options.source](options.root)
        file = Path(options.splits or Path(options.root, SPLITS_FILE))
        if options.splits or file.is_file():
            splits = Splits.load(file)
            train = splits.train and splits.train[: options.num_identities]
            val = splits.val[: options.num_val_identities]
            self.splits = replace(splits, train=train, val=val, data=splits.data or data)
        elif self.photos is None:
            test = list(shard_photos(list_shards(options.root, split="test"), num=options.num_test_identities))
            shards = list_shards(options.root, split="val")
            val = list(shard_photos(shards, held_out=test, num=options.num_val_identities))
            self.splits = Splits(None, val, test, data)
        else:
            splits = Splits.of(
                sorted(self.photos), num_val=options.num_val_identities, num_test=options.num_test_identities
            )
            self.splits = replace(splits, train=splits.train[: options.num_identities], data=data)
        one_of(options.target, TARGETS[:2], "faces.target")  # before networks are read
        if self.photos is not None:
            self.photos, self.splits = apart(self.photos, self.splits)

    def faces(self, split: str) -> FaceSource:
        """The people of train, val or test, each to be asked for by number; those of shards are held in memory."""
        options, names = self.options, getattr(self.splits, split)
        if options.source == "faceworld":
            pictures = faceworld_pictures(options, indices=[int(name) for name in names])
            return FaceworldFaces(pictures, target_views=options.target, seed=options.seed)
        photos = self.photos
        if photos is None:
            shards = list_shards(options.root, split=split)
            held_out = {name for other in ("val", "test") if other != split for name in getattr(self.splits, other)}
            num = options.num_identities if names is None else len(names)
            photos = shard_photos(shards, names=names, held_out=held_out, num=num)
            names = list(photos) if names is None else names
        if not names:
            raise ValueError(f"{options.root} has no {split} identities, expected at least one")
        return PhotoFaces(
            select(photos, names),
            resolution=options.resolution,
            cropper=self.cropper,
            target=options.target,
            seed=options.seed,
        )

    def training(self, *, caches_of: tuple[str, str] | None = None) -> FaceSource | ShardFaces:
        """The people to train on: shards as a stream, in epochs of `num_identities` samples.

        Args:
            caches_of: digests of the autoencoder and the encoder whose caches lie beside the shards, to be read.
        """
        options, names = self.options, self.splits.train
        if options.source != "shards":
            return self.faces("train")
        if names == []:
            raise ValueError(f"{options.root} has no train identities, expected at least one")
        num = options.num_identities
        shards = ShardFaces(
            list_shards(options.root, split="train"),
            resolution=options.resolution,
            num_samples=num if names is None else min(num or len(names), len(names)),
            wanted=Wanted(names, held_out=self.splits.val + self.splits.test),
            cropper=self.cropper,
            target=options.target,
            seed=options.seed,
        )
        if caches_of is not None:
            shards.use_caches(CacheKeys(*caches_of, options.resolution))
        return shards

    @property
    def cropper(self) -> FaceCropper | None:
        """What finds the face in a photo; shards hold faces already."""
        crop = self.options.source != "shards" if self.options.crop is None else self.options.crop
        return FaceCropper() if crop else None


def faceworld_splits(options: PeopleOptions) -> Splits:
    """The first people of faceworld's own splits."""
    if options.splits is not None:
        raise ValueError(f"faces.splits is {options.splits}, but faceworld has splits of its own; expected null")
    names = {}
    for split, num in (("train", options.num_identities), ("val", options.num_val_identities), ("test", None)):
        people = SPLITS[split]
        if num is not None and not 1 <= num <= len(people):
            raise ValueError(f"{num} {split} identities asked for; faceworld has 1 to {len(people)}")
        names[split] = [str(person) for person in people[:num]]
    return Splits(**names, data=f"faceworld of seed {options.seed}")


def faceworld_pictures(options: PeopleOptions, *, indices: list[int]) -> FaceWorldDataset:
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


def refuse_trained(splits: Splits, hypernet: Path) -> None:
    """Raises ValueError where somebody to be tested is among those that a hypernetwork was trained on."""
    file = (hypernet if hypernet.is_dir() else hypernet.parent) / SPLITS_FILE
    if not file.is_file():
        return
    trained = Splits.load(file)
    if trained.data == splits.data:
        held_out = {*trained.val, *trained.test}
        train = [name for name in splits.test if name not in held_out] if trained.train is None else trained.train
        try:
            refuse_overlap(train=train, test=splits.test)
        except ValueError as error:
            raise ValueError(f"{error}; faces.splits={file} tests others than {hypernet} was trained on") from None
