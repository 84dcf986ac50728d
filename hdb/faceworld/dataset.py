"""FaceWorldDataset: pictures of faceworld in a uint8 cache on disk, rendered in parallel; rendering can be resumed."""

import io
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
from hdb.faceworld.splits import SPLITS
from hdb.faceworld.view import ACCESSORIES, CONTEXTS, EXPRESSIONS, KINDS, STYLES, View
from hdb.faceworld.world import FaceWorld
from hdb.files import write_files

# A file holds eight neighboring people in one view of each kind. That is a second or two of one process, which is all
# that an interruption loses. Files do not depend on which people and views a stage asks for, so all stages share them.
PEOPLE_PER_FILE = 8
VIEWS_PER_FILE = len(KINDS)


class Labels(NamedTuple):
    """What a picture shows, as positions in `LABEL_NAMES`."""

    style: int
    context: int
    accessory: int
    expression: int


LABEL_NAMES = Labels(tuple(STYLES), tuple(CONTEXTS), tuple(ACCESSORIES), tuple(EXPRESSIONS))


def disk_estimate(*, num_identities: int, views_per_identity: int, resolution: int) -> str:
    """How much a cache takes on disk, in words.

    >>> disk_estimate(num_identities=2000, views_per_identity=12, resolution=64)
    '24,000 pictures of 64 px, 295 MB on disk'
    """
    pictures = num_identities * views_per_identity
    return f"{pictures:,} pictures of {resolution} px, {pictures * 3 * resolution**2 / 1e6:,.0f} MB on disk"


# One world for each rendering process: building it takes longer than rendering a picture.
_world: FaceWorld | None = None


def _start_worker(seed: int, resolution: int) -> None:
    global _world
    torch.set_num_threads(1)  # processes use the cores better than threads
    _world = FaceWorld(seed=seed, resolution=resolution)


def _render_file(path: str, block: int, part: int) -> str:
    assert _world is not None
    _write_file(_world, Path(path), block, part)
    return path


def _write_file(world: FaceWorld, path: Path, block: int, part: int) -> None:
    people = range(block * PEOPLE_PER_FILE, (block + 1) * PEOPLE_PER_FILE)
    views = range(part * VIEWS_PER_FILE, (part + 1) * VIEWS_PER_FILE)
    pairs = [(world.identity(i), world.view(i, j)) for i in people for j in views]
    pictures = (world.render(pairs) * 255).round().to(torch.uint8).cpu().numpy()
    content = io.BytesIO()
    np.save(content, pictures.reshape(len(people), len(views), *pictures.shape[1:]))
    write_files({path: content.getvalue()})


class FaceWorldDataset:
    """Pictures of some people of the world, addressed as (person, view).

    The cache is .npy files of eight people and three views, in a folder under `root` whose name contains the world's
    digest, so that caches of different pixels are never mixed. Call `prepare` first; views, captions and labels need
    no pictures.

    Args:
        root: Folder of all caches.
        split: "train", "val" or "test"; or give `indices`.
        indices: Numbers of people, instead of a split.
        views_per_identity: Views are "plain", "context" and "styled" in turn.
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
        self.views_per_identity = views_per_identity
        self.resolution = resolution
        self.seed = seed
        self.world = FaceWorld(seed=seed, resolution=resolution)
        self.folder = Path(root) / f"faceworld-{resolution}px-{self.world.digest[:12]}"

    def __len__(self) -> int:
        return len(self.indices)

    def _file(self, block: int, part: int) -> Path:
        """The file of people `block` x 8 to `block` x 8 + 7 in views `part` x 3 to `part` x 3 + 2."""
        return self.folder / f"people-{block:05d}-views-{part:02d}.npy"

    @property
    def _parts(self) -> range:
        return range(-(-self.views_per_identity // VIEWS_PER_FILE))

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The files that are not rendered yet, as (block of people, part of their views)."""
        blocks = sorted({index // PEOPLE_PER_FILE for index in self.indices})
        return [(block, part) for block in blocks for part in self._parts if not self._file(block, part).exists()]

    @property
    def disk_estimate(self) -> str:
        """How much the whole cache takes on disk, in words."""
        return disk_estimate(
            num_identities=len(self), views_per_identity=self.views_per_identity, resolution=self.resolution
        )

    def prepare(self, num_workers: int | None = None, *, progress: bool = True) -> None:
        """Renders what is missing; after an interruption the next call continues.

        Args:
            num_workers: Rendering processes with one thread each, by default one per core; 0 renders in this process.
                They are spawned: a script must call this under `if __name__ == "__main__"`.
            progress: Whether to print the disk use and show a progress bar.
        """
        missing = self.missing
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if progress:
            tqdm.write(f"{self.folder}: {self.disk_estimate}; {len(missing)} files to render")
        size = PEOPLE_PER_FILE * VIEWS_PER_FILE
        with tqdm(total=size * len(missing), unit="picture", disable=not progress) as bar:
            if num_workers == 0:
                for numbers in missing:
                    _write_file(self.world, self._file(*numbers), *numbers)
                    bar.update(size)
                return
            pool = ProcessPoolExecutor(
                min(num_workers or os.cpu_count() or 1, len(missing)),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self.seed, self.resolution),
            )
            try:
                jobs = [pool.submit(_render_file, str(self._file(*numbers)), *numbers) for numbers in missing]
                for job in as_completed(jobs):
                    job.result()
                    bar.update(size)
            finally:
                # On Ctrl-C the files in work are finished, the others are left to the next call.
                pool.shutdown(cancel_futures=True)

    def _load(self, block: int, part: int) -> np.ndarray:
        path = self._file(block, part)
        if not path.exists():
            raise ValueError(f"{path} is missing: {len(self.missing)} files are not rendered yet; call prepare() first")
        pictures = np.load(path, mmap_mode="r", allow_pickle=False)
        expected = (PEOPLE_PER_FILE, VIEWS_PER_FILE, 3, self.resolution, self.resolution)
        if pictures.shape != expected or pictures.dtype != np.uint8:
            raise ValueError(f"{path} holds {pictures.dtype} {pictures.shape}, expected uint8 {expected}; delete it")
        return pictures

    @cached_property
    def images(self) -> UInt8[np.ndarray, "identities views 3 h w"]:
        """All pictures, in memory."""
        people = np.array(self.indices)
        images = np.empty((len(self), self.views_per_identity, 3, self.resolution, self.resolution), np.uint8)
        for block in np.unique(people // PEOPLE_PER_FILE):
            rows = np.flatnonzero(people // PEOPLE_PER_FILE == block)
            for part in self._parts:
                views = slice(part * VIEWS_PER_FILE, min((part + 1) * VIEWS_PER_FILE, self.views_per_identity))
                loaded = self._load(int(block), part)[people[rows] % PEOPLE_PER_FILE]
                images[rows, views] = loaded[:, : views.stop - views.start]
        return images

    def image(self, i: int, j: int) -> UInt8[np.ndarray, "3 h w"]:
        """Picture of person `i` (a position in `indices`) in view `j`, read from disk."""
        block, row = divmod(self.indices[i], PEOPLE_PER_FILE)
        part, column = divmod(j, VIEWS_PER_FILE)
        return np.array(self._load(block, part)[row, column])

    def view(self, i: int, j: int) -> View:
        """The parameters of picture (i, j)."""
        return self.world.view(self.indices[i], j)

    def caption(self, i: int, j: int, *, rng: np.random.Generator | None = None) -> str:
        """Caption of picture (i, j). With `rng` it is a training caption, which may say age, hair and beard."""
        identity = self.world.identity(self.indices[i]) if rng is not None else None
        return caption(self.view(i, j), identity=identity, rng=rng)

    def labels(self, i: int, j: int) -> Labels:
        """Integer labels of picture (i, j)."""
        view = self.view(i, j)
        return Labels(
            style=LABEL_NAMES.style.index(view.style),
            context=LABEL_NAMES.context.index(view.context),
            accessory=LABEL_NAMES.accessory.index(view.accessory),
            expression=LABEL_NAMES.expression.index(view.expression),
        )
