"""FaceWorldDataset: the world's pictures as a uint8 cache on disk, rendered in parallel and resumable at any moment."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from hdb.faceworld.captions import caption
from hdb.faceworld.view import ACCESSORIES, CONTEXTS, EXPRESSIONS, STYLES, View
from hdb.faceworld.world import SPLITS, FaceWorld

CHUNK = 8  # identities per file: a second or two of one process, all that an interruption loses


class Labels(NamedTuple):
    """What a picture shows, as positions in `LABEL_NAMES`."""

    style: int
    context: int
    accessory: int
    expression: int


LABEL_NAMES = Labels(tuple(STYLES), tuple(CONTEXTS), tuple(ACCESSORIES), tuple(EXPRESSIONS))


def disk_estimate(*, num_identities: int, views_per_identity: int, resolution: int) -> str:
    """How much a cache takes, in words.

    >>> disk_estimate(num_identities=2000, views_per_identity=12, resolution=64)
    '24,000 pictures of 64 px, 295 MB on disk'
    """
    pictures = num_identities * views_per_identity
    return f"{pictures:,} pictures of {resolution} px, {pictures * 3 * resolution**2 / 1e6:,.0f} MB on disk"


# One world per rendering process: building it costs more than a picture.
_world: FaceWorld | None = None


def _start_worker(seed: int, resolution: int) -> None:
    global _world
    torch.set_num_threads(1)  # processes share the cores better than threads do
    _world = FaceWorld(seed=seed, resolution=resolution)


def _render_chunk(path: str, indices: list[int], views_per_identity: int) -> str:
    assert _world is not None
    _write_chunk(_world, Path(path), indices, views_per_identity)
    return path


def _write_chunk(world: FaceWorld, path: Path, indices: list[int], views_per_identity: int) -> None:
    pairs = [(world.identity(i), world.view(i, j)) for i in indices for j in range(views_per_identity)]
    pictures = (world.render(pairs) * 255).round().to(torch.uint8).cpu().numpy()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, pictures.reshape(len(indices), views_per_identity, *pictures.shape[1:]))
    os.replace(part, path)


class FaceWorldDataset:
    """Pictures of some of the world's people, addressed as (person, view).

    Chunks of eight people are plain .npy files under `root`, in a folder named by everything the pixels depend on, so
    that caches of other worlds or versions are never mixed up. Call `prepare` first; views, captions and labels need no
    pictures.

    Args:
        root: Folder for all caches.
        split: 'train', 'val' or 'test'; or give `indices`.
        indices: Identity numbers, instead of a split.
        views_per_identity: View j is 'plain', 'context' or 'styled' in turn.
        seed: Of the world.
        resolution: 64 or 128.

    >>> dataset = FaceWorldDataset("cache", split="val", resolution=64)
    >>> len(dataset), dataset.caption(0, 0)
    (200, 'a photo of a face pouting')
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str | None = None,
        indices: Sequence[int] | None = None,
        views_per_identity: int = 12,
        seed: int = 0,
        resolution: int = 128,
    ) -> None:
        if (split is None) == (indices is None):
            raise ValueError(f"give either split or indices; got split={split!r} and indices={indices!r}")
        if split is not None and split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.indices = tuple(SPLITS[split] if split is not None else indices)
        if not self.indices or views_per_identity < 1:
            raise ValueError(
                f"got {len(self.indices)} identities with {views_per_identity} views each, expected one or more"
            )
        self.views_per_identity, self.resolution, self.seed = views_per_identity, resolution, seed
        self.world = FaceWorld(seed=seed, resolution=resolution)
        description = {
            "world": self.world.digest, "indices": list(self.indices), "views_per_identity": views_per_identity,
        }  # fmt: skip
        self.digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
        self.folder = Path(root) / f"faceworld-{split or 'custom'}-{resolution}px-{self.digest[:12]}"

    def __len__(self) -> int:
        return len(self.indices)

    def _chunk(self, number: int) -> tuple[Path, list[int]]:
        return self.folder / f"chunk-{number:05d}.npy", list(self.indices[number * CHUNK : (number + 1) * CHUNK])

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks still to be rendered."""
        count = -(-len(self) // CHUNK)
        return [number for number in range(count) if not self._chunk(number)[0].exists()]

    @property
    def disk_estimate(self) -> str:
        """How much the whole cache takes, in words."""
        return disk_estimate(
            num_identities=len(self), views_per_identity=self.views_per_identity, resolution=self.resolution
        )

    def prepare(self, num_workers: int | None = None, *, progress: bool = True) -> None:
        """Renders what is missing; an interrupted call leaves finished chunks, and the next one continues.

        Args:
            num_workers: Rendering processes, each with one thread; default one per core. 0 renders in this process.
                Processes are spawned: a script must call this under `if __name__ == "__main__"`.
            progress: Whether to say the disk use and show a progress bar.
        """
        missing = self.missing
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if progress:
            tqdm.write(f"{self.folder}: {self.disk_estimate}; {len(missing)} chunks of {CHUNK} people to render")
        jobs = [self._chunk(number) for number in missing]
        with tqdm(total=sum(len(people) for _, people in jobs), unit="person", disable=not progress) as bar:
            if num_workers == 0:
                for path, people in jobs:
                    _write_chunk(self.world, path, people, self.views_per_identity)
                    bar.update(len(people))
                return
            pool = ProcessPoolExecutor(
                min(num_workers or os.cpu_count() or 1, len(jobs)),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self.seed, self.resolution),
            )
            try:
                sizes = {
                    pool.submit(_render_chunk, str(path), people, self.views_per_identity): len(people)
                    for path, people in jobs
                }
                for done in as_completed(sizes):
                    done.result()
                    bar.update(sizes[done])
            finally:
                # On Ctrl-C the chunks in work are finished, the rest are left to the next call.
                pool.shutdown(cancel_futures=True)

    def _load(self, number: int) -> np.ndarray:
        path, people = self._chunk(number)
        if not path.exists():
            raise ValueError(
                f"{path} is missing: {len(self.missing)} chunks are not rendered yet; call prepare() first"
            )
        pictures = np.load(path, mmap_mode="r", allow_pickle=False)
        expected = (len(people), self.views_per_identity, 3, self.resolution, self.resolution)
        if pictures.shape != expected or pictures.dtype != np.uint8:
            raise ValueError(f"{path} holds {pictures.dtype} {pictures.shape}, expected uint8 {expected}; delete it")
        return pictures

    @cached_property
    def images(self) -> UInt8[np.ndarray, "identities views 3 h w"]:
        """All pictures in memory; see `disk_estimate` for how much that is."""
        return np.concatenate([self._load(number) for number in range(-(-len(self) // CHUNK))])

    def image(self, i: int, j: int) -> UInt8[np.ndarray, "3 h w"]:
        """Picture of person `i` (a position in `indices`) in view `j`, read from disk."""
        return np.array(self._load(i // CHUNK)[i % CHUNK, j])

    def view(self, i: int, j: int) -> View:
        """What picture (i, j) is a view of."""
        return self.world.view(self.indices[i], j)

    def caption(self, i: int, j: int, *, rng: np.random.Generator | None = None) -> str:
        """Words for picture (i, j). With `rng` a training caption, which may state the person's hair, beard and age."""
        identity = self.world.identity(self.indices[i]) if rng is not None else None
        return caption(self.view(i, j), identity=identity, rng=rng)

    def labels(self, i: int, j: int) -> Labels:
        """Integer labels of picture (i, j)."""
        view = self.view(i, j)
        shown = (view.style, view.context, view.accessory, view.expression)
        return Labels(*(names.index(name) for names, name in zip(LABEL_NAMES, shown, strict=True)))
