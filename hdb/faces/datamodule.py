"""Batches of people for the Trainer: an order that depends on seed and epoch only, resumable at any step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice, pairwise
from typing import TypeVar

import lightning as L
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from hdb.faces.picture import FaceError
from hdb.faces.shards import ShardFaces
from hdb.faces.sources import FaceBatch, FaceSample, FaceSource
from hdb.faces.splits import refuse_overlap

Items = TypeVar("Items", bound=Sequence)


class FaceLoader:
    """Iterates over a source once per epoch, in batches.

    The order is a permutation drawn from (seed, epoch), so nothing has to be stored but how many batches of the epoch
    were given out; Lightning keeps that in its checkpoints through `state_dict`, and calls `set_epoch` on `sampler`. A
    plain DataLoader would start a resumed epoch from its beginning; torchdata's StatefulDataLoader would be one more
    dependency, to store what these three numbers tell.

    Args:
        batch_size: per process. With `shuffle` the order wraps round, so that every batch of every rank is full.
            Without it the batches are those of one process, shared out, and nobody is alone in one: validation
            compares people with others of their batch.
        shuffle: off for validation: then every epoch is the same, samples and all.
        num_samples: length of an epoch over all ranks; beyond the number of people, further permutations follow.
        rank: this process among `world_size`; each takes every world_size-th sample.

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
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.source, self.batch_size, self.shuffle, self.seed = source, batch_size, shuffle, seed
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size
        self.num_samples = num_samples or (source.num_samples if self.streams else len(source))
        if self.streams and self.num_samples is not None and self.num_samples < batch_size * world_size:
            raise ValueError(
                f"an epoch has {self.num_samples} samples, expected at least {batch_size * world_size}, one batch for "
                "each process: lower the batch size"
            )
        if not shuffle and not self.streams:
            refuse_idle(self.num_samples, batch_size, world_size=world_size)
        self.epoch, self.num_given, self.resume_at = 0, 0, (-1, 0)
        self.left: list[list[tuple[int, int]]] = []  # of the epoch: what the batches still hold

    batch_sampler = None  # Lightning looks for it beside `sampler`

    @property
    def streams(self) -> bool:
        return isinstance(self.source, ShardFaces)

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
        if self.streams:
            return self.num_samples // self.world_size // self.batch_size
        return len(self.batches(self.epoch))

    def batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """This rank's keys (draw, index) of an epoch, batch by batch."""
        people = len(self.source)
        rounds = -(-self.num_samples // people)
        keys = []
        for draw in range(epoch * rounds, (epoch + 1) * rounds):  # a draw number never returns: new pictures each time
            order = np.random.default_rng([self.seed, draw]).permutation(people) if self.shuffle else range(people)
            keys += [(draw, int(index)) for index in order]
        keys = keys[: self.num_samples]
        if not self.shuffle:
            return in_company(keys, self.batch_size)[self.rank :: self.world_size]
        missing = -len(keys) % (self.batch_size * self.world_size)
        keys += (keys * -(-missing // len(keys)))[:missing]
        keys = keys[self.rank :: self.world_size]
        return [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]

    def __iter__(self) -> Iterator[FaceBatch]:
        # A generator: nothing happens before the first batch is asked for, when the epoch is known.
        skip = self.resume_at[1] if self.resume_at[0] == self.epoch else 0
        self.resume_at = (-1, 0)
        with say_face_error():
            for number, batch in enumerate(self.load(self.epoch, skip), skip + 1):
                self.num_given = number
                yield batch

    def load(self, epoch: int, skip: int) -> Iterator[FaceBatch]:
        """The batches of an epoch from number `skip` on."""
        if not self.streams:
            self.left[:] = self.batches(epoch)[skip:]
            return iter(self.reader)
        self.source.check_parts(world_size=self.world_size, num_workers=max(1, self.num_workers))
        self.source.set_epoch(epoch, rank=self.rank, world_size=self.world_size)
        return islice(self.reader, skip, len(self) if self.num_samples else None)

    @cached_property
    def reader(self) -> DataLoader:
        """What reads every epoch: its processes live on, as starting them takes longer than many an epoch."""
        order = {"batch_sampler": self.left}
        if self.streams:
            order = {"batch_size": self.batch_size, "drop_last": self.shuffle}
        return DataLoader(
            self.source,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=FaceBatch.of,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # without one, the global generator is drawn from
            **order,
        )

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batches": self.num_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume_at = (state["epoch"], state["batches"])


class FaceData(L.LightningDataModule):
    """Training and validation people.

    Args:
        batch_size: per device, for both.
        num_samples: samples of a training epoch, all people once by default.
        num_workers: processes that read and crop; 0 reads in the main process.

    Raises:
        ValueError: a person is in both splits.
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
    ):
        super().__init__()
        if val is not None and not isinstance(train, ShardFaces):
            refuse_overlap(train=train.names, val=val.names)
        self.train, self.val = train, val
        self.batch_size, self.num_samples, self.num_workers, self.seed = batch_size, num_samples, num_workers, seed

    def loader(self, source: FaceSource | ShardFaces, *, shuffle: bool, num_samples: int | None = None) -> FaceLoader:
        """A loader for this process of the trainer, if there is one."""
        return FaceLoader(
            source,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            num_samples=num_samples,
            num_workers=self.num_workers,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def setup(self, stage: str) -> None:
        """Raises ValueError if there are too few people for the processes: not after hours, at the first validation."""
        self.val_dataloader()

    def train_dataloader(self) -> FaceLoader:
        return self.loader(self.train, shuffle=True, num_samples=self.num_samples)

    def val_dataloader(self) -> FaceLoader | list[FaceLoader]:
        return [] if self.val is None else self.loader(self.val, shuffle=False)


def in_company(items: Items, batch_size: int) -> list[Items]:
    """Items in batches of at least two; one that would be left over is with those before.

    >>> in_company([0, 1, 2, 3], 3), in_company([0, 1, 2], 1)
    ([[0, 1, 2, 3]], [[0, 1, 2]])
    """
    starts = range(0, max(1, len(items) - 1), max(2, batch_size))
    return [items[start:end] for start, end in pairwise([*starts, len(items)])]


def refuse_idle(num_people: int, batch_size: int, *, world_size: int) -> None:
    """Raises ValueError if a process would have nobody to validate on."""
    num = len(in_company(range(num_people), batch_size))
    if num < world_size:
        raise ValueError(
            f"{num_people} people in batches of {max(2, batch_size)} are {num} batches, expected at least "
            f"{world_size}, one for each process: lower the batch size, or take more people for validation"
        )


def read_samples(source: FaceSource, keys: list[tuple[int, int]], *, num_workers: int = 0) -> list[FaceSample]:
    """Samples by their keys (draw, index), in that order, read by so many processes; 0 reads in this one."""
    options = {
        "num_workers": num_workers,
        "generator": torch.Generator().manual_seed(0),
    }  # else the global one is drawn
    with say_face_error():
        return list(DataLoader(source, sampler=keys, batch_size=None, collate_fn=as_it_is, **options))


def as_it_is(sample: FaceSample) -> FaceSample:
    return sample


@contextmanager
def say_face_error() -> Iterator[None]:
    """From a worker an error comes with the worker's traceback as its text."""
    try:
        yield
    except FaceError as error:
        raise FaceError(str(error).rpartition("FaceError: ")[2].strip(), reason=error.reason) from None


def first_references(source: FaceSource, num: int) -> Float[Tensor, "n 3 h w"]:
    """The photos of the first people, as many as there are."""
    return torch.stack([source[index].reference for index in range(min(num, len(source)))])
