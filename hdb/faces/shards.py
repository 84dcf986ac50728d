"""Faces from tar shards: streamed, shuffled, split between nodes and workers, and what was skipped counted."""

import json
import random
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from hdb.faces.caches import CacheKeys, ShardCache
from hdb.faces.crop import FaceCropper
from hdb.faces.formats import HEIC, READABLE
from hdb.faces.photos import Photos
from hdb.faces.picture import REASONS, FaceError, StoredPicture
from hdb.faces.sources import FaceSample, Skipped, identity_number, one_of, usable_pictures
from hdb.prompts import INSTANCE_PROMPT

URLS = ("http://", "https://")


class ShardPerson(NamedTuple):
    """A sample of a shard: who, the files of their pictures, and which shard it is."""

    name: str
    pictures: list[StoredPicture]
    shard: str


class ShardReader:
    """Reads people out of tar files.

    A sample of a shard is a person: every picture `<key>.jpg`, `<key>.0.png`, `<key>.side.webp` shows the person
    `<key>`; an optional `<key>.json` may hold {"identity": name}. Samples that cannot be used and cut shards are named
    in a warning and counted in `skipped`; what a cut shard holds before the cut is used.
    """

    def __init__(self) -> None:
        self.skipped = Skipped((*REASONS, "no picture", "cut shard"))
        self.shard, self.cut = "", set[str]()  # the one that is being read, and those that break off

    def people(self, shards: Sequence[str], *, shuffle_size: int = 0, seed: str = "") -> Iterator[ShardPerson]:
        """Everybody in the shards, in the order of the files or shuffled."""
        stages = [
            webdataset.SimpleShardList(shards),
            self.opened,
            partial(tar_file_expander, handler=self.note_cut),
            partial(group_by_keys, handler=self.note_cut),
        ]
        if shuffle_size:
            stages.append(webdataset.shuffle(shuffle_size, initial=shuffle_size, rng=random.Random(seed)))
        self.cut.clear()
        for record in webdataset.DataPipeline(*stages):
            person = self.person(record)
            if person is not None:
                yield person

    def person(self, record: dict) -> ShardPerson | None:
        """A tar record as a person, or None where it is none."""
        name = f"{record['__key__']} in {record['__url__']}"
        fields = sorted(field for field in record if f".{field}".lower().endswith((*READABLE, *HEIC)))
        if not fields:
            self.skipped.add("no picture", f"{name} holds none of {', '.join(READABLE)}")
            return None
        try:
            identity = json.loads(record.get("json", b"{}")).get("identity", record["__key__"])
        except (ValueError, AttributeError):
            self.skipped.add("unreadable", f"the json of {name} is no object with names and values")
            return None
        pictures = [
            StoredPicture(f"{field} of {name}", record[field], f"{record['__key__']}.{field}") for field in fields
        ]
        return ShardPerson(str(identity), pictures, record["__url__"])

    def opened(self, shards: Iterable[dict[str, str]]) -> Iterator[dict[str, object]]:
        """Opens one shard after another, and looks at its end: tarfile overlooks a cut between two files."""
        for shard in shards:
            self.shard = shard["url"]
            try:
                with closing(open_shard(self.shard)) as file:
                    stream = Tail(file.read)
                    yield shard | {"stream": stream}
                    stream.read()
                    if self.shard.endswith(".tar") and (stream.end.strip(b"\0") or len(stream.end) < 1024):
                        self.note_cut(EOFError("no end of archive"))
            except OSError as error:
                self.note_cut(error)

    def note_cut(self, error: Exception) -> bool:
        """webdataset's handler for a shard that breaks off; may be called twice for one shard."""
        if self.shard not in self.cut:
            self.cut.add(self.shard)
            self.skipped.add("cut shard", f"{self.shard} breaks off or cannot be opened ({type(error).__name__})")
        return True


class Tail:
    """A stream that remembers its last 1024 bytes: those of a whole tar are zero."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self.source, self.end = source, b""

    def read(self, size: int = -1) -> bytes:
        data = self.source(size)
        self.end = (self.end + data)[-1024:]
        return data


class Wanted:
    """Whom to take from shards: the people named, or everybody, but never those held out for other splits."""

    def __init__(self, names: Collection[str] | None = None, *, held_out: Collection[str] = ()) -> None:
        self.names, self.held_out = None if names is None else frozenset(names), frozenset(held_out)

    def __contains__(self, name: str) -> bool:
        return name not in self.held_out and (self.names is None or name in self.names)


class ShardFaces(IterableDataset):
    """People in tar files, local or by http(s) URL, as a stream; see ShardReader for what a shard holds.

    The order is a function of (seed, epoch, node, worker).

    Args:
        shards: a folder of *.tar files, a pattern "faces-{000..099}.tar", or a list.
        num_samples: length of an epoch over all nodes and workers, for the loader to cut: the stream then repeats
            without end. Without it the stream is one pass and has no length.
        wanted: the people that are given; without it, everybody.
        cropper, target: see PhotoFaces.
        shuffle_size: samples held back to be shuffled; shards are shuffled too. 0 keeps the order of the files.

    Samples have caches once `caches` says whose; every shard must have them beside it.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str],
        *,
        resolution: int,
        num_samples: int | None = None,
        wanted: Container[str] | None = None,
        cropper: FaceCropper | None = None,
        target: str = "other",
        shuffle_size: int = 1000,
        seed: int = 0,
    ):
        self.shards, self.caches = list_shards(shards), None
        self.resolution, self.num_samples, self.cropper = resolution, num_samples, cropper
        self.wanted = Wanted() if wanted is None else wanted
        self.num_pictures = {"other": 2, "same": 1}[one_of(target, ("other", "same"), "target")]
        self.shuffle_size, self.seed = shuffle_size, seed
        # Epoch, rank and world size: in shared memory, since workers live on from epoch to epoch.
        self.turn = torch.zeros(3, dtype=torch.int64).share_memory_()
        self.set_epoch(0)
        self.reader = ShardReader()

    @property
    def skipped(self) -> Skipped:
        """Counts of what could not be used."""
        return self.reader.skipped

    @property
    def epoch(self) -> int:
        return int(self.turn[0])

    def set_epoch(self, epoch: int, *, rank: int = 0, world_size: int = 1) -> None:
        """Chooses the order of the next iteration, and which node's share of the shards it goes through."""
        self.turn.copy_(torch.tensor([epoch, rank, world_size]))

    def use_caches(self, keys: CacheKeys) -> None:
        """Reads the caches beside the shards; raises ValueError naming the first that is not there."""
        for shard in self.shards:
            ShardCache(shard, keys)
        self.caches = keys

    def check_parts(self, *, world_size: int, num_workers: int) -> None:
        """Raises ValueError where some worker of some node would get no shard."""
        if len(self.shards) < world_size * num_workers:
            raise ValueError(
                f"{len(self.shards)} shards cannot be split between {world_size} nodes with {num_workers} workers "
                f"each; expected at least {world_size * num_workers} shards, or fewer workers"
            )

    def __iter__(self) -> Iterator[FaceSample]:
        worker = get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        _, rank, world_size = self.turn.tolist()
        self.check_parts(world_size=world_size, num_workers=num_workers)
        part, num_parts = rank * num_workers + number, world_size * num_workers
        passes = fruitless = 0
        while passes == 0 or self.num_samples is not None:
            fruitless += 1
            for sample in self.one_pass(passes, part, num_parts):
                fruitless = 0
                yield sample
            if fruitless == 10:  # once may be chance: a share with nothing but people who are held out
                raise FaceError(f"no usable sample in {len(self.shards)} shards; skipped {self.skipped.counts}")
            passes += 1

    def one_pass(self, number: int, part: int, num_parts: int) -> Iterator[FaceSample]:
        """Once through one worker's share of the shards."""
        shards = list(self.shards)
        if self.shuffle_size:  # the same on every node and worker, so that their shares stay disjoint
            random.Random(f"{self.seed}/{self.epoch}/{number}").shuffle(shards)
        private = [self.seed, self.epoch, number, part]
        rng, seed = np.random.default_rng(private), "/".join(map(str, private))
        kept = {shard: ShardCache(shard, self.caches) for shard in shards[part::num_parts]} if self.caches else {}
        for person in self.reader.people(shards[part::num_parts], shuffle_size=self.shuffle_size, seed=seed):
            if person.name not in self.wanted:
                continue
            usable = usable_pictures(
                [person.pictures[choice] for choice in rng.permutation(len(person.pictures))],
                num=self.num_pictures,
                resolution=self.resolution,
                cropper=self.cropper,
                skipped=self.skipped,
            )
            if usable:
                (reference, photo), (target, wanted) = usable[0], usable[-1]
                cache = kept.get(person.shard)
                cached = cache and cache.of(reference=reference.file, target=target.file)
                yield FaceSample(photo, wanted, INSTANCE_PROMPT, identity_number(person.name), cached=cached)


def shard_photos(
    shards: Sequence[str], *, names: Collection[str] | None = None, held_out: Collection[str] = (), num: int
) -> Photos:
    """The first `num` people of shards, in their order, with the files of their pictures in memory.

    Reading ends when all are found: a later sample of the same person is not looked for.

    Args:
        names: the people that are wanted; without it, everybody but those held out.
    """
    wanted = Wanted(names, held_out=held_out)
    photos: dict[str, list[StoredPicture]] = {}
    for person in ShardReader().people(shards) if num != 0 else ():
        if person.name in wanted:
            photos.setdefault(person.name, []).extend(person.pictures)
        if len(photos) == num:
            break
    return photos


def list_shards(shards: str | Path | Sequence[str], *, split: str | None = None) -> list[str]:
    """Folder, brace pattern or list as a list of paths and URLs.

    Args:
        split: of a folder in which shards are named by split, as `prepare_shard` ones are, those of this split.

    Raises:
        ValueError: nothing there, a local file missing, a shard twice, or a scheme that would run a command.
    """
    if isinstance(shards, (str, Path)) and Path(shards).is_dir():
        found = sorted(str(path) for path in Path(shards).glob("*.tar"))
        if not found:
            raise ValueError(f"{shards} holds no *.tar shard")
        names = [name for name in found if Path(name).name.startswith(f"{split}-")] or found
    else:
        names = expand(str(shards)) if isinstance(shards, (str, Path)) else list(shards)
    if len(set(names)) != len(names):
        raise ValueError(f"a shard is listed twice among {len(names)}; expected each once")
    for name in names:
        if not Path(name).is_file() and not name.startswith(URLS):  # webdataset would run "pipe:..." in a shell
            raise ValueError(f"shard {name!r} is neither a file nor an http(s) URL")
    return names


def expand(shards: str) -> list[str]:
    """A pattern as a list; what is a file is no pattern, whatever letters its name has."""
    return [shards] if Path(shards).is_file() else webdataset.shardlists.expand_urls(shards)


def open_shard(name: str) -> Any:
    """A stream of bytes; of a file also in a folder `a:b`, which webdataset takes for the scheme of a URL."""
    return webdataset.gopen(name) if name.startswith(URLS) and not Path(name).is_file() else Path(name).open("rb")
