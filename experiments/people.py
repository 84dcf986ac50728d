"""The people an experiment runs on, as its config names them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import wandb
from jaxtyping import Float
from torch import Tensor

from experiments.tracking import has_login
from hdb.config import Evaluate, Faces
from hdb.faces.copies import apart
from hdb.faces.crop import FaceCropper
from hdb.faces.names import file_names
from hdb.faces.photos import Photos, celeba, flat_folder, identity_folders, kind_of, lfw, select
from hdb.faces.shards import ShardFaces, list_shards, shard_photos
from hdb.faces.sources import FaceSource, FaceworldFaces, PhotoFaces, identity_number, one_of
from hdb.faces.splits import Splits, refuse_overlap
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.world import SPLITS, FaceWorld

READERS = {"folders": identity_folders, "flat": flat_folder, "celeba": celeba, "lfw": lfw}
SPLITS_FILE = "splits.json"  # beside prepared shards, and in the folder of every run


class People:
    """Everybody in a source, listed by split: `splits`.

    Raises:
        ValueError: nobody there, or an identity in two splits.
    """

    def __init__(self, config: Faces):
        one_of(config.source, (*READERS, "shards", "artifact", "faceworld"), "faces.source")
        self.photos: Photos | None = None
        if config.source == "faceworld":
            self.config, self.splits = config, faceworld_splits(config)
            return
        for name, least in (("num_identities", 1), ("num_val_identities", 0), ("num_test_identities", 0)):
            if (num := getattr(config, name)) is not None and num < least:
                raise ValueError(f"faces.{name} is {num}, expected at least {least}")
        data = f"{config.source} {os.path.normpath(config.root)}"
        self.config = config = download(config) if config.source == "artifact" else config
        if config.source in READERS:
            self.photos = READERS[config.source](config.root)
        file = Path(config.splits or Path(config.root, SPLITS_FILE))
        if config.splits or file.is_file():
            splits = Splits.load(file)
            train = splits.train and splits.train[: config.num_identities]
            val = splits.val[: config.num_val_identities]
            self.splits = replace(splits, train=train, val=val, data=splits.data or data)
        elif self.photos is None:
            test = list(shard_photos(list_shards(config.root, split="test"), num=config.num_test_identities))
            shards = list_shards(config.root, split="val")
            val = list(shard_photos(shards, held_out=test, num=config.num_val_identities))
            self.splits = Splits(None, val, test, data)
        else:
            splits = Splits.of(
                sorted(self.photos), num_val=config.num_val_identities, num_test=config.num_test_identities
            )
            self.splits = replace(splits, train=splits.train[: config.num_identities], data=data)
        if self.photos is not None:
            self.photos, self.splits = apart(self.photos, self.splits)

    def faces(self, split: str) -> FaceSource:
        """The people of train, val or test, each to be asked for by number; those of shards are held in memory."""
        config, names = self.config, getattr(self.splits, split)
        if config.source == "faceworld":
            pictures = faceworld_pictures(config, indices=[int(name) for name in names])
            return FaceworldFaces(pictures, target_views=config.target, seed=config.seed)
        photos = self.photos
        if photos is None:
            shards = list_shards(config.root, split=split)
            held_out = {name for other in ("val", "test") if other != split for name in getattr(self.splits, other)}
            num = config.num_identities if names is None else len(names)
            photos = shard_photos(shards, names=names, held_out=held_out, num=num)
            names = list(photos) if names is None else names
        if not names:
            raise ValueError(f"{config.root} has no {split} identities, expected at least one")
        return PhotoFaces(
            select(photos, names),
            resolution=config.resolution,
            cropper=self.cropper,
            target=config.target,
            seed=config.seed,
        )

    def training(self) -> FaceSource | ShardFaces:
        """The people to train on: shards as a stream, in epochs of `num_identities` samples."""
        config, names = self.config, self.splits.train
        if config.source != "shards":
            return self.faces("train")
        if names == []:
            raise ValueError(f"{config.root} has no train identities, expected at least one")
        num = config.num_identities
        return ShardFaces(
            list_shards(config.root, split="train"),
            resolution=config.resolution,
            num_samples=num if names is None else min(num or len(names), len(names)),
            names=names,
            held_out=self.splits.val + self.splits.test,
            cropper=self.cropper,
            target=config.target,
            seed=config.seed,
        )

    @property
    def cropper(self) -> FaceCropper | None:
        """What finds the face in a photo; shards hold faces already."""
        crop = self.config.source != "shards" if self.config.crop is None else self.config.crop
        return FaceCropper() if crop else None


def download(config: Faces) -> Faces:
    """A W&B artifact as a folder on disk, read according to what it holds."""
    if not has_login():
        raise ValueError(f"artifact {config.root} needs WANDB_API_KEY or a `wandb login`")
    try:
        root = wandb.Api().artifact(config.root).download()
    except (wandb.Error, ValueError) as error:
        given = f"artifact {config.root} cannot be downloaded ({error})"
        raise ValueError(f"{given}; expected faces.root=entity/project/name:alias") from None
    return replace(config, source=kind_of(root), root=str(root))


def faceworld_splits(config: Faces) -> Splits:
    """The first people of faceworld's own splits."""
    if config.splits is not None:
        raise ValueError(f"faces.splits is {config.splits}, but faceworld has splits of its own; expected null")
    names = {}
    for split, num in (("train", config.num_identities), ("val", config.num_val_identities), ("test", None)):
        people = SPLITS[split]
        if num is not None and not 1 <= num <= len(people):
            raise ValueError(f"{num} {split} identities asked for; faceworld has 1 to {len(people)}")
        names[split] = [str(person) for person in people[:num]]
    return Splits(**names, data=f"faceworld of seed {config.seed}")


def faceworld_pictures(config: Faces, *, indices: list[int]) -> FaceWorldDataset:
    """These people of faceworld; renders those that are not on disk yet."""
    dataset = FaceWorldDataset(
        config.root,
        indices=indices,
        views_per_identity=config.views_per_identity,
        seed=config.seed,
        resolution=config.resolution,
    )
    dataset.prepare(num_workers=config.render_workers, progress=True)
    return dataset


class Unseen(NamedTuple):
    """People of an evaluation. The first reference of each is the photo that methods are given.

    `others` are photos of further people of the test split, one of each, to look for somebody among.
    """

    names: list[str]
    references: Float[Tensor, "n v 3 h w"]
    oracle: Callable[[int, str, int], Float[Tensor, "3 h w"]] | None  # (person, prompt, seed) -> the true answer
    others: Float[Tensor, "m 3 h w"]

    @property
    def gallery(self) -> Float[Tensor, "g 3 h w"]:
        """A photo of each of the n people, and the others'; where somebody has another one, not the photo given."""
        given = self.references[:, 0]
        known = [
            next((photo for photo in photos if not torch.equal(photo, first)), first)
            for first, photos in zip(given, self.references, strict=True)
        ]
        return torch.cat([torch.stack(known), self.others])


def unseen(config: Evaluate, *, hypernet: Path) -> Unseen:
    """The first test people of a source; on faceworld with plain views as references and an oracle.

    Raises:
        ValueError: not as many, a smaller gallery, or the list beside `hypernet` says it was trained on one of them.
    """
    num, num_references, source = config.num_identities, config.num_references, config.faces
    if num < 1 or num_references < 1:
        raise ValueError(f"num_identities is {num} and num_references {num_references}, expected at least 1 each")
    if config.num_gallery < num:
        raise ValueError(f"num_gallery is {config.num_gallery}, expected at least num_identities, which is {num}")
    if source.source == "faceworld":
        return unseen_faceworld(config)
    people = People(source)
    refuse_trained(people.splits, hypernet)
    test, names, references, others = people.faces("test"), [], [], []
    for index, name in enumerate(test.names):
        evaluated = len(names) < num
        samples = [test[draw, index] for draw in range(num_references if evaluated else 1)]
        if not all(sample.identity == identity_number(name) for sample in samples):  # somebody stands in
            continue
        if evaluated:
            names.append(name)
            references.append(torch.stack([sample.reference for sample in samples]))
        else:
            others.append(samples[0].reference)
        if len(names) + len(others) == config.num_gallery:
            break
    if len(names) < num:
        usable = f"{len(names)} of the {len(test)} test people of {source.root} have a usable picture"
        raise ValueError(f"num_identities is {num}, but {usable}")
    known = torch.stack(references)
    return Unseen(file_names(names), known, None, torch.stack(others) if others else known[:0, 0])


def unseen_faceworld(config: Evaluate) -> Unseen:
    num, source = config.num_identities, config.faces
    if num > len(SPLITS["test"]):
        raise ValueError(f"num_identities is {num}, but faceworld has {len(SPLITS['test'])} test people")
    world, indices = FaceWorld(seed=source.seed, resolution=source.resolution), SPLITS["test"][:num]
    # Every third view is plain: a photo in a studio.
    pairs = [
        (world.identity(index), world.view(index, 3 * view))
        for index in indices
        for view in range(config.num_references)
    ]
    references = world.render(pairs).unflatten(0, (num, config.num_references))
    others = references[:0, 0]
    if strangers := SPLITS["test"][num : config.num_gallery]:
        dataset = faceworld_pictures(replace(source, views_per_identity=1), indices=list(strangers))
        others = torch.from_numpy(dataset.images[:, 0]).float() / 255
    return Unseen(
        names=[str(index) for index in indices],
        references=references,
        oracle=lambda person, prompt, seed: world.oracle(indices[person], prompt, seed=seed),
        others=others,
    )


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
