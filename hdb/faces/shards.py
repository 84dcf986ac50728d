"""Faces from tar shards: streamed, shuffled, split between nodes and workers, and what was skipped counted."""

import io
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import webdataset
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import IterableDataset
from webdataset.utils import pytorch_worker_info

from hdb.faces.crop import REASONS, FaceCropper, FaceError, open_picture, square
from hdb.faces.sources import SUFFIXES, FaceSample, Skipped, one_of
from hdb.faceworld.captions import INSTANCE_PROMPT


class ShardFaces(IterableDataset):
    """People in tar files, local or by http(s) URL, as a stream.

    A sample of a shard is a person: every picture `<key>.jpg`, `<key>.0.png`, `<key>.side.webp` shows the person
    `<key>`; an optional `<key>.json` may hold {"identity": name, "prompt": text}. The integer identity is the first 63
    bits of the name's sha256, as a stream has no list to count in.

    The order is a function of (seed, epoch, node, worker). Broken pictures and cut shards are named in a warning and
    counted in `skipped`; what a cut shard holds before the cut is used.

    Args:
        shards: a folder of *.tar files, a pattern "faces-{000..099}.tar", or a list.
        num_samples: length of an epoch over all nodes and workers; the stream repeats as needed, so that every node
            gets equally many. Without it an epoch is one pass and has no length.
        cropper, target, prompt: see PhotoFaces.
        shuffle_size: samples held back to be shuffled; shards are shuffled too. 0 keeps the order of the files.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str],
        *,
        resolution: int,
        num_samples: int | None = None,
        cropper: FaceCropper | None = None,
        target: str = "other",
        prompt: str = INSTANCE_PROMPT,
        shuffle_size: int = 1000,
        seed: int = 0,
    ):
        self.shards = list_shards(shards)
        self.resolution, self.num_samples, self.cropper, self.prompt = resolution, num_samples, cropper, prompt
        self.num_pictures = {"other": 2, "same": 1}[one_of(target, ("other", "same"), "target")]
        self.shuffle_size, self.seed, self.epoch = shuffle_size, seed, 0
        self.skipped = Skipped((*REASONS, "no picture", "cut shard"))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[FaceSample]:
        rank, world_size, worker, num_workers = pytorch_worker_info()
        num_parts = world_size * num_workers
        if len(self.shards) < num_parts:
            raise ValueError(
                f"{len(self.shards)} shards cannot be split between {world_size} nodes with {num_workers} workers "
                f"each; expected at least {num_parts} shards"
            )
        if self.num_samples is None:
            yield from self.one_pass(0, rank, worker)
            return
        left, passes = self.num_samples // num_parts, 0
        while left > 0:
            found = 0
            for sample in self.one_pass(passes, rank, worker):
                found, left = found + 1, left - 1
                yield sample
                if left == 0:
                    return
            if found == 0:
                raise FaceError(f"no usable sample in {len(self.shards)} shards; skipped {self.skipped.counts}")
            passes += 1

    def one_pass(self, number: int, rank: int, worker: int) -> Iterator[FaceSample]:
        """Once through this worker's share of the shards."""
        shards = list(self.shards)
        if self.shuffle_size:  # the same on every node and worker, so that their shares stay disjoint
            random.Random(f"{self.seed}/{self.epoch}/{number}").shuffle(shards)
        private = [self.seed, self.epoch, number, rank, worker]
        stages = [
            webdataset.SimpleShardList(shards),
            webdataset.split_by_node,
            webdataset.split_by_worker,
            self.check_ends,
            webdataset.tarfile_to_samples(handler=self.note_cut),
        ]
        if self.shuffle_size:
            rng = random.Random("/".join(map(str, private)))
            stages.append(webdataset.shuffle(self.shuffle_size, initial=self.shuffle_size, rng=rng))
        choices = np.random.default_rng(private)
        self.cut: set[str] = set()
        for record in webdataset.DataPipeline(*stages):
            sample = self.decode(record, choices)
            if sample is not None:
                yield sample

    def decode(self, record: dict, rng: np.random.Generator) -> FaceSample | None:
        """A tar record as a sample, or None where no picture of it can be used."""
        name = f"{record['__key__']} in {record['__url__']}"
        fields = sorted(field for field in record if f".{field}".lower().endswith(SUFFIXES))
        if not fields:
            self.skipped.add("no picture", f"{name} holds none of {', '.join(SUFFIXES)}")
            return None
        pictures: list[Float[Tensor, "3 h w"]] = []
        for choice in rng.permutation(len(fields)):
            try:
                pictures.append(self.picture(record[fields[choice]], f"{fields[choice]} of {name}"))
            except FaceError as error:
                self.skipped.add(error.reason, str(error))
            if len(pictures) == self.num_pictures:
                break
        if not pictures:
            return None
        try:
            about = json.loads(record.get("json", b"{}"))
        except ValueError:
            self.skipped.add("unreadable", f"the json of {name} cannot be parsed")
            return None
        identity = identity_number(str(about.get("identity", record["__key__"])))
        return FaceSample(pictures[0], pictures[-1], str(about.get("prompt", self.prompt)), identity)

    def picture(self, data: bytes, name: str) -> Float[Tensor, "3 h w"]:
        """Decodes and crops the bytes of a picture.

        Raises:
            FaceError: it cannot be used.
        """
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            raise FaceError(f"{name} is not a picture") from None
        image.filename = name  # what messages call it
        if self.cropper is None:
            return square(open_picture(image), resolution=self.resolution)
        return self.cropper.crop(image, resolution=self.resolution)

    def check_ends(self, shards: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        """Notes local shards without the two zero blocks that end a tar: tarfile overlooks a cut between two files."""
        for shard in shards:
            path = Path(shard["url"])
            if path.suffix == ".tar" and path.is_file():
                with path.open("rb") as file:
                    file.seek(-min(1024, path.stat().st_size), os.SEEK_END)
                    if file.read().strip(b"\0") or path.stat().st_size < 1024:
                        self.note_cut(EOFError("no end of archive", shard["url"]))
            yield shard

    def note_cut(self, error: Exception) -> bool:
        """webdataset's handler for a shard that breaks off or cannot be opened; may be called twice for one shard."""
        shard = next((text for text in map(str, error.args[::-1]) if text in self.shards), "a shard")
        if shard not in self.cut:
            self.cut.add(shard)
            self.skipped.add("cut shard", f"{shard} breaks off or cannot be opened ({error.args[0]})")
        return True


def list_shards(shards: str | Path | Sequence[str]) -> list[str]:
    """Folder, brace pattern or list as a list of paths and URLs.

    Raises:
        ValueError: nothing there, a local file missing, a shard twice, or a scheme that would run a command.
    """
    if isinstance(shards, (str, Path)) and Path(shards).is_dir():
        names = sorted(str(path) for path in Path(shards).glob("*.tar"))
        if not names:
            raise ValueError(f"{shards} holds no *.tar shard")
    else:
        names = webdataset.shardlists.expand_urls(str(shards)) if isinstance(shards, (str, Path)) else list(shards)
    if len(set(names)) != len(names):
        raise ValueError(f"a shard is listed twice among {len(names)}; expected each once")
    for name in names:
        if "://" not in name and not name.startswith("pipe:") and Path(name).is_file():
            continue
        if not name.startswith(("http://", "https://")):  # webdataset would run "pipe:..." in a shell
            raise ValueError(f"shard {name!r} is neither a file nor an http(s) URL")
    return names


def identity_number(name: str) -> int:
    """A name as 63 bits that are the same everywhere, unlike `hash`."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1
