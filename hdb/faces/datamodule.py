"""Batches of people for the Trainer, in an order that depends on seed and epoch alone and resumes at any step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import lightning as L
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from hdb.faces.options import PeopleOptions
from hdb.faces.people import People
from hdb.faces.photos import detect_source
from hdb.faces.picture import FaceError
from hdb.faces.shards import ShardFaces
from hdb.faces.sources import FaceBatch, FaceSample, FaceSource
from hdb.faces.splits import refuse_overlap

Items = TypeVar("Items", bound=Sequence)
Keys = list[tuple[int, int]]  # (draw, index) of samples


class FaceLoader:
    """Iterates over a source once per epoch, in batches.

    The order is a permutation drawn from (seed, epoch), so nothing has to be stored but the number of batches given in
    the epoch. Lightning keeps it in its checkpoints through `state_dict`, and calls `set_epoch` on `sampler`. A plain
    DataLoader would start a resumed epoch from its beginning.

    Args:
        batch_size: per process. With `shuffle` the order wraps round, so that every batch of every rank is full.
            Without it each rank takes some of the batches of a single process, and each batch has at least two people:
            validation compares people with others of their batch.
        shuffle: off for validation, whose epochs are all the same.
        num_samples: length of an epoch over all ranks; beyond the number of people, further permutations follow.
        rank: this process among `world_size`; each takes every world_size-th sample.
        read_batch: makes a batch of keys (draw, index) in this process, instead of collating the source's samples.

    Raises:
        ValueError: a rank would have no batch.
    """

    def __init__(
        self,
        source: FaceSource | ShardFaces,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        num_samples: int | None = None,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        read_batch: Callable[[Keys], FaceBatch] | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.source = source
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self.read_batch = read_batch
        self.is_stream = isinstance(source, ShardFaces)
        self.num_samples = num_samples or (source.num_samples if self.is_stream else len(source))
        if self.is_stream and self.num_samples is not None and self.num_samples < batch_size * world_size:
            raise ValueError(
                f"an epoch has {self.num_samples} samples, expected at least {batch_size * world_size}, one batch for "
                "each process: lower the batch size"
            )
        if not shuffle and not self.is_stream:
            _refuse_idle_ranks(self.num_samples, batch_size, world_size=world_size)
        self.epoch = 0
        self.num_batches_given = 0
        self._resume_epoch, self._resume_batch = -1, 0
        self._remaining: list[Keys] = []  # batches of this epoch that are still to be read

    batch_sampler = None  # Lightning looks for it beside `sampler`

    @property
    def sampler(self) -> "FaceLoader":
        """What Lightning calls `set_epoch` on."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.epoch = epoch

    def __len__(self) -> int:
        if self.num_samples is None:
            raise TypeError("a stream without num_samples has no length")  # what `len` of an IterableDataset raises
        if self.is_stream:
            return self.num_samples // self.world_size // self.batch_size
        return len(self.batches(self.epoch))

    def batches(self, epoch: int) -> list[Keys]:
        """This rank's keys (draw, index) of an epoch, batch by batch."""
        num_people = len(self.source)
        num_rounds = -(-self.num_samples // num_people)
        keys: Keys = []
        for draw in range(epoch * num_rounds, (epoch + 1) * num_rounds):  # each draw takes other pictures
            order = range(num_people)
            if self.shuffle:
                order = np.random.default_rng([self.seed, draw]).permutation(num_people)
            keys += [(draw, int(index)) for index in order]
        keys = keys[: self.num_samples]
        if not self.shuffle:
            return split_into_batches(keys, self.batch_size)[self.rank :: self.world_size]
        num_missing = -len(keys) % (self.batch_size * self.world_size)
        keys += (keys * -(-num_missing // len(keys)))[:num_missing]
        keys = keys[self.rank :: self.world_size]
        return [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]

    def __iter__(self) -> Iterator[FaceBatch]:
        # A generator: nothing happens before the first batch is asked for, when the epoch is known.
        num_skipped = self._resume_batch if self._resume_epoch == self.epoch else 0
        self._resume_epoch, self._resume_batch = -1, 0
        with _worker_traceback_removed():
            for number, batch in enumerate(self._load(num_skipped), num_skipped + 1):
                self.num_batches_given = number
                yield batch

    def _load(self, num_skipped: int) -> Iterator[FaceBatch]:
        """The batches of this epoch after the first `num_skipped`."""
        if self.read_batch is not None:
            return map(self.read_batch, self.batches(self.epoch)[num_skipped:])
        if not self.is_stream:
            self._remaining[:] = self.batches(self.epoch)[num_skipped:]
            return iter(self._data_loader)
        self.source.check_shares(world_size=self.world_size, num_workers=max(1, self.num_workers))
        self.source.set_epoch(self.epoch, rank=self.rank, world_size=self.world_size)
        return islice(self._data_loader, num_skipped, len(self) if self.num_samples else None)

    @cached_property
    def _data_loader(self) -> DataLoader:
        """Reads every epoch with the same worker processes: starting them takes longer than many an epoch."""
        if self.is_stream:
            batching = {"batch_size": self.batch_size, "drop_last": self.shuffle}
        else:
            batching = {"batch_sampler": self._remaining}
        return DataLoader(
            self.source,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=FaceBatch.from_samples,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # without one, the global generator is drawn from
            **batching,
        )

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batches": self.num_batches_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_epoch, self._resume_batch = state["epoch"], state["batches"]


class FaceData(L.LightningDataModule):
    """People to train on and people to validate on.

    `FaceData.from_folder` takes a folder of photos; the constructor takes any two sources, made by `People` or by hand.

    Args:
        train: people to train on, or a stream of shards.
        val: people to validate on; None skips validation.
        batch_size: per device, for both.
        num_samples: samples of a training epoch; by default all people once.
        num_workers: processes that read and crop; 0 reads in the main process.
        read_batch: of training, as for `FaceLoader`.

    Raises:
        ValueError: a person is in both.

    Example:
        >>> from PIL import Image
        >>> from hdb.faces.sources import PhotoFaces
        >>> people = PhotoFaces({"anna": [Image.new("RGB", (64, 64))]}, resolution=32)
        >>> next(iter(FaceData(people, batch_size=1).train_dataloader())).reference.shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        train: FaceSource | ShardFaces,
        val: FaceSource | None = None,
        *,
        batch_size: int = 8,
        num_samples: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        read_batch: Callable[[Keys], FaceBatch] | None = None,
    ):
        super().__init__()
        if val is not None and not isinstance(train, ShardFaces):
            refuse_overlap(train=train.names, val=val.names)
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.num_workers = num_workers
        self.seed = seed
        self.read_batch = read_batch

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        *,
        resolution: int,
        batch_size: int = 8,
        num_val: int = 0,
        crop: bool = True,
        num_workers: int = 0,
        seed: int = 0,
    ) -> "FaceData":
        """Reads a folder of photos: a folder in it for each person, or pictures of which each shows another person.

        Photos that cannot be used are named in warnings and passed over. A folder of tar shards, as `hdb prepare`
        makes them, is read too; for large datasets it is much faster.

        Args:
            resolution: side of the square images in pixels; that of the base.
            num_val: people to validate on instead of training: the last by name, or the first of shards.
            crop: whether the face is found and cut out; False takes the central square of pictures that are face crops.

        Raises:
            ValueError: there is no picture, or not more than `num_val` people.
        """
        source = detect_source(root)
        options = PeopleOptions(
            source=source,
            root=str(root),
            resolution=resolution,
            num_identities=None,
            num_val_identities=num_val,
            num_test_identities=0,
            crop=crop and source != "shards",
            seed=seed,
        )
        people = People(options)
        val = people.faces("val") if num_val else None
        return cls(people.training(), val, batch_size=batch_size, num_workers=num_workers, seed=seed)

    def _loader(self, source: FaceSource | ShardFaces, *, shuffle: bool, num_samples: int | None = None) -> FaceLoader:
        """A loader for this process of the trainer, if there is one."""
        return FaceLoader(
            source,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            num_samples=num_samples,
            num_workers=self.num_workers,
            read_batch=self.read_batch if source is self.train else None,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def setup(self, stage: str) -> None:
        """Raises ValueError if there are too few people for the processes, before the first validation finds out."""
        self.val_dataloader()

    def train_dataloader(self) -> FaceLoader:
        return self._loader(self.train, shuffle=True, num_samples=self.num_samples)

    def val_dataloader(self) -> FaceLoader | list[FaceLoader]:
        return [] if self.val is None else self._loader(self.val, shuffle=False)


def split_into_batches(items: Items, batch_size: int) -> list[Items]:
    """Splits items into batches of at least two; a single one that is left joins the batch before.

    >>> split_into_batches([0, 1, 2, 3], 3), split_into_batches([0, 1, 2], 1)
    ([[0, 1, 2, 3]], [[0, 1, 2]])
    """
    starts = range(0, max(1, len(items) - 1), max(2, batch_size))
    return [items[start:end] for start, end in pairwise([*starts, len(items)])]


def _refuse_idle_ranks(num_people: int, batch_size: int, *, world_size: int) -> None:
    """Raises ValueError if a process would have nobody to validate on."""
    num_batches = len(split_into_batches(range(num_people), batch_size))
    if num_batches < world_size:
        raise ValueError(
            f"{num_people} people in batches of {max(2, batch_size)} are {num_batches} batches, expected at least "
            f"{world_size}, one for each process: lower the batch size, or take more people for validation"
        )


def read_samples(source: FaceSource, keys: Keys, *, num_workers: int = 0) -> list[FaceSample]:
    """Reads samples by their keys (draw, index), in that order, in worker processes; 0 reads in this one."""
    loader = DataLoader(
        source,
        sampler=keys,
        batch_size=None,
        collate_fn=_first_argument,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),  # without one, the global generator is drawn from
    )
    with _worker_traceback_removed():
        return list(loader)


def _first_argument(sample: FaceSample) -> FaceSample:
    """The collate function of single samples; a lambda could not be sent to a worker."""
    return sample


@contextmanager
def _worker_traceback_removed() -> Iterator[None]:
    """Restores the message of a FaceError: from a worker it comes with the worker's traceback as its text."""
    try:
        yield
    except FaceError as error:
        raise FaceError(str(error).rpartition("FaceError: ")[2].strip(), reason=error.reason) from None


def first_references(source: FaceSource, num: int) -> Float[Tensor, "n 3 h w"]:
    """The reference photos of the first people, at most `num`."""
    return torch.stack([source[index].reference for index in range(min(num, len(source)))])
