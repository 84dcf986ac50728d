"""Streams faces from tar shards: shuffled, split between nodes and workers, and with a count of what is skipped."""

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
from hdb.faces.photo_files import REASONS, FaceError
from hdb.faces.photos import Photos
from hdb.faces.picture import StoredPicture
from hdb.faces.sources import FaceSample, SkipCounter, identity_number, num_pictures_of, read_usable
from hdb.prompts import INSTANCE_PROMPT

URLS = ("http://", "https://")
END_OF_TAR = 1024  # bytes at the end of a whole tar, all zero
MAX_EMPTY_PASSES = 10  # once may be chance: a share of the shards with nobody but people who are held out


class ShardPerson(NamedTuple):
    """One sample of a shard: a person's name, the picture files, and the shard."""

    name: str
    pictures: list[StoredPicture]
    shard: str


class ShardReader:
    """Reads people from tar files.

    A sample of a shard is a person: every picture `<key>.jpg`, `<key>.0.png`, `<key>.side.webp` shows the person
    `<key>`; an optional `<key>.json` may hold {"identity": name, "sides": {"0.jpg": 312}}, where a side is that of the
    crop in its photo. Samples that cannot be used and shards that break off are named in a warning and counted in
    `skipped`; what a shard holds before it breaks off is used.
    """

    def __init__(self) -> None:
        self.skipped = SkipCounter((*REASONS, "no picture", "cut shard"))
        self.shard = ""  # the one that is being read
        self.cut_shards: set[str] = set()

    def read_people(self, shards: Sequence[str], *, shuffle_size: int = 0, seed: str = "") -> Iterator[ShardPerson]:
        """Reads everybody in the shards, in the order of the files or shuffled."""
        stages = [
            webdataset.SimpleShardList(shards),
            self._open_shards,
            partial(tar_file_expander, handler=self._count_cut_shard),
            partial(group_by_keys, handler=self._count_cut_shard),
        ]
        if shuffle_size:
            stages.append(webdataset.shuffle(shuffle_size, initial=shuffle_size, rng=random.Random(seed)))
        self.cut_shards.clear()
        for record in webdataset.DataPipeline(*stages):
            person = self._to_person(record)
            if person is not None:
                yield person

    def _to_person(self, record: dict) -> ShardPerson | None:
        key, shard = record["__key__"], record["__url__"]
        name = f"{key} in {shard}"
        fields = sorted(field for field in record if f".{field}".lower().endswith((*READABLE, *HEIC)))
        if not fields:
            self.skipped.add("no picture", f"{name} holds none of {', '.join(READABLE)}")
            return None
        try:
            about = json.loads(record.get("json", b"{}"))
            identity = about.get("identity", key)
            sides = dict(about.get("sides", {}))
        except (ValueError, TypeError, AttributeError):
            self.skipped.add("unreadable", f"the json of {name} is no object with names and values")
            return None
        pictures = [
            StoredPicture(f"{field} of {name}", record[field], f"{key}.{field}", _side(sides.get(field)))
            for field in fields
        ]
        return ShardPerson(str(identity), pictures, shard)

    def _open_shards(self, shards: Iterable[dict[str, str]]) -> Iterator[dict[str, object]]:
        """Opens one shard after another, and looks at its end: tarfile overlooks a cut between two files."""
        for shard in shards:
            self.shard = shard["url"]
            try:
                with closing(open_shard(self.shard)) as file:
                    stream = _TailStream(file.read)
                    yield shard | {"stream": stream}
                    stream.read()
                    is_whole = len(stream.tail) == END_OF_TAR and not stream.tail.strip(b"\0")
                    if self.shard.endswith(".tar") and not is_whole:
                        self._count_cut_shard(EOFError("no end of archive"))
            except OSError as error:
                self._count_cut_shard(error)

    def _count_cut_shard(self, error: Exception) -> bool:
        """webdataset's handler for a shard that breaks off; it may be called twice for one shard."""
        if self.shard not in self.cut_shards:
            self.cut_shards.add(self.shard)
            self.skipped.add("cut shard", f"{self.shard} breaks off or cannot be opened ({type(error).__name__})")
        return True


def _side(value: object) -> int | None:
    """A side that a shard says, if it is one."""
    return value if type(value) is int and value > 0 else None


class _TailStream:
    """A stream that remembers its last bytes."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self.source = source
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        data = self.source(size)
        self.tail = (self.tail + data)[-END_OF_TAR:]
        return data


class IdentityFilter:
    """The people to take from shards: those named, or everybody, but never those held out for other splits."""

    def __init__(self, names: Collection[str] | None = None, *, held_out: Collection[str] = ()) -> None:
        self.names = None if names is None else frozenset(names)
        self.held_out = frozenset(held_out)

    def __contains__(self, name: str) -> bool:
        return name not in self.held_out and (self.names is None or name in self.names)


class ShardFaces(IterableDataset):
    """People in tar files, local or by http(s) URL, as a stream; see `ShardReader` for what a shard holds.

    The order is a function of (seed, epoch, node, worker).

    Args:
        shards: a folder of *.tar files, a pattern "faces-{000..099}.tar", or a list.
        num_samples: length of an epoch over all nodes and workers, for the loader to cut: the stream then repeats
            without end. Without it the stream is one pass and has no length.
        identities: the people to take; by default everybody.
        cropper: see `PhotoFaces`.
        target: see `PhotoFaces`.
        shuffle_size: samples held back to be shuffled; shards are shuffled too. 0 keeps the order of the files.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str],
        *,
        resolution: int,
        num_samples: int | None = None,
        identities: Container[str] | None = None,
        cropper: FaceCropper | None = None,
        target: str = "other",
        shuffle_size: int = 1000,
        seed: int = 0,
    ):
        self.shards = list_shards(shards)
        self.resolution = resolution
        self.num_samples = num_samples
        self.identities = IdentityFilter() if identities is None else identities
        self.cropper = cropper
        self.num_pictures = num_pictures_of(target)
        self.shuffle_size = shuffle_size
        self.seed = seed
        self.cache_keys: CacheKeys | None = None
        # Epoch, rank and world size, in shared memory: workers live on from epoch to epoch.
        self._position = torch.zeros(3, dtype=torch.int64).share_memory_()
        self.set_epoch(0)
        self.reader = ShardReader()

    @property
    def skipped(self) -> SkipCounter:
        """Counts of what could not be used."""
        return self.reader.skipped

    @property
    def epoch(self) -> int:
        return int(self._position[0])

    def set_epoch(self, epoch: int, *, rank: int = 0, world_size: int = 1) -> None:
        """Chooses the order of the next iteration, and the node whose share of the shards it goes through."""
        self._position.copy_(torch.tensor([epoch, rank, world_size]))

    def use_caches(self, keys: CacheKeys) -> None:
        """Reads the caches beside the shards with each sample.

        Raises:
            ValueError: a shard has none; names the first.
        """
        for shard in self.shards:
            ShardCache(shard, keys)
        self.cache_keys = keys

    def check_shares(self, *, world_size: int, num_workers: int) -> None:
        """Raises ValueError if a worker of a node would get no shard."""
        if len(self.shards) < world_size * num_workers:
            raise ValueError(
                f"{len(self.shards)} shards cannot be split between {world_size} nodes with {num_workers} workers "
                f"each; expected at least {world_size * num_workers} shards, or fewer workers"
            )

    def __iter__(self) -> Iterator[FaceSample]:
        worker = get_worker_info()
        worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        _, rank, world_size = self._position.tolist()
        self.check_shares(world_size=world_size, num_workers=num_workers)
        share, num_shares = rank * num_workers + worker_id, world_size * num_workers
        num_passes = num_empty = 0
        while num_passes == 0 or self.num_samples is not None:
            num_empty += 1
            for sample in self.one_pass(num_passes, share, num_shares):
                num_empty = 0
                yield sample
            if num_empty == MAX_EMPTY_PASSES:
                raise FaceError(f"no usable sample in {len(self.shards)} shards; skipped {self.skipped.counts}")
            num_passes += 1

    def one_pass(self, number: int, share: int, num_shares: int) -> Iterator[FaceSample]:
        """Goes once through one worker's share of the shards."""
        shards = list(self.shards)
        if self.shuffle_size:  # the same on every node and worker, so that their shares stay disjoint
            random.Random(f"{self.seed}/{self.epoch}/{number}").shuffle(shards)
        shards = shards[share::num_shares]
        share_seed = [self.seed, self.epoch, number, share]
        rng = np.random.default_rng(share_seed)
        shuffle_seed = "/".join(str(part) for part in share_seed)
        caches = {}
        if self.cache_keys is not None:
            caches = {shard: ShardCache(shard, self.cache_keys) for shard in shards}
        for person in self.reader.read_people(shards, shuffle_size=self.shuffle_size, seed=shuffle_seed):
            if person.name not in self.identities:
                continue
            usable = read_usable(
                [person.pictures[choice] for choice in rng.permutation(len(person.pictures))],
                num=self.num_pictures,
                resolution=self.resolution,
                cropper=self.cropper,
                skipped=self.skipped,
            )
            if not usable:
                continue
            reference, reference_crop = usable[0]
            target, target_crop = usable[-1]
            cached = None
            if self.cache_keys is not None:
                cached = caches[person.shard].load(reference=reference.file, target=target.file)
            yield FaceSample(
                reference_crop.pixels,
                target_crop.pixels,
                INSTANCE_PROMPT,
                identity_number(person.name),
                cached=cached,
                target_side=target_crop.side,
            )


def read_shard_photos(
    shards: Sequence[str], *, names: Collection[str] | None = None, held_out: Collection[str] = (), num: int
) -> Photos:
    """Reads the picture files of the first `num` people of shards into memory.

    Reading ends when all are found: a later sample of the same person is not looked for.

    Args:
        names: the people to take; by default everybody but those held out.
    """
    identities = IdentityFilter(names, held_out=held_out)
    photos: dict[str, list[StoredPicture]] = {}
    if num == 0:
        return photos
    for person in ShardReader().read_people(shards):
        if person.name in identities:
            photos.setdefault(person.name, []).extend(person.pictures)
        if len(photos) == num:
            break
    return photos


def list_shards(shards: str | Path | Sequence[str], *, split: str | None = None) -> list[str]:
    """A folder, brace pattern or list as a list of paths and URLs.

    Args:
        split: of a folder in which shards are named by split, as those of `prepare_shard` are, the shards of this one.

    Raises:
        ValueError: nothing there, a local file missing, a shard twice, or a scheme that would run a command.
    """
    if isinstance(shards, (str, Path)) and Path(shards).is_dir():
        found = sorted(str(path) for path in Path(shards).glob("*.tar"))
        if not found:
            raise ValueError(f"{shards} holds no *.tar shard")
        names = [name for name in found if Path(name).name.startswith(f"{split}-")] or found
    elif isinstance(shards, (str, Path)):
        # the name of a file is no pattern, whatever letters it has
        names = [str(shards)] if Path(shards).is_file() else webdataset.shardlists.expand_urls(str(shards))
    else:
        names = list(shards)
    if len(set(names)) != len(names):
        raise ValueError(f"a shard is listed twice among {len(names)}; expected each once")
    for name in names:
        if not Path(name).is_file() and not name.startswith(URLS):  # webdataset would run "pipe:..." in a shell
            raise ValueError(f"shard {name!r} is neither a file nor an http(s) URL")
    return names


def open_shard(name: str) -> Any:
    """Opens a shard as a stream of bytes; webdataset would take the folder of `a:b/train.tar` for a URL's scheme."""
    if name.startswith(URLS) and not Path(name).is_file():
        return webdataset.gopen(name)
    return Path(name).open("rb")
