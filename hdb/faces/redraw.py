"""Draws the splits of prepared people again, once it is known who has a usable picture."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hdb.faces.duplicates import drop_duplicate_crops
from hdb.faces.shard_writer import About, read_about, read_shard, write_shard
from hdb.faces.splits import Splits

SPLITS = ("train", "val", "test")


def redraw_splits(folder: Path, splits: Splits, *, num_val: int, num_test: int) -> Splits:
    """Drops copies, then draws the splits of those who have a picture, and moves people to the shards of theirs.

    The last people by name are for test, those before for validation, as `Splits.from_names` takes them. Interrupted,
    it can be called again.

    Args:
        folder: of shards, each called <split>-<number>.tar.
        splits: that the shards were made for.
        num_val: people who were asked for; fewer if there are not as many.
    """
    _finish_move(folder)
    while True:
        shards = prepared_shards(folder)
        drop_duplicate_crops(shards)
        names = sorted({name for path in shards for name in read_about(path)["people"]})
        num_val, num_test = affordable(len(names), num_val=num_val, num_test=num_test)
        if names:
            drawn = Splits.from_names(names, num_val=num_val, num_test=num_test)
            splits = replace(drawn, data=splits.data)
        if not names or not move_people(folder, splits):
            return splits


def affordable(num_people: int, *, num_val: int, num_test: int) -> tuple[int, int]:
    """How many people of few to validate and test on, so that one is left to train on, and no split is empty if it can.

    >>> [affordable(num, num_val=2, num_test=2) for num in (5, 4, 3, 2, 1)]
    [(2, 2), (1, 2), (1, 1), (0, 1), (0, 0)]
    """
    while num_val + num_test >= max(num_people, 1):
        if num_val >= num_test:
            num_val -= 1
        else:
            num_test -= 1
    return num_val, num_test


def move_people(folder: Path, splits: Splits) -> bool:
    """Moves everybody to a shard of their split; returns whether anybody had to be moved.

    The shard that people come to is written before the one that they leave, see `_finish_move`.
    """
    split_of = {name: split for split in SPLITS for name in getattr(splits, split)}
    shards = prepared_shards(folder)
    leaving: dict[Path, list[str]] = defaultdict(list)
    arriving: dict[Path, dict[Path, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in shards:
        for name in read_about(path)["people"]:
            split = split_of[name]
            if split != split_name(path):
                leaving[path].append(name)
                last = max((other for other in shards if split_name(other) == split), default=None)
                arriving[last or folder / f"{split}-00000.tar"][path].append(name)
    for path, origins in arriving.items():
        add_people(path, origins)
    for path, names in leaving.items():
        remove_people(path, names)
    return bool(leaving)


def _finish_move(folder: Path) -> None:
    """Leaves people who are in two shards, as a call was interrupted, in one: that of test before val before train.

    Who moves towards test is thereby moved. Who moves the other way, as test and validation shrink with the number of
    people, is back where they were, and moved by this call.
    """
    seen: set[str] = set()
    for path in reversed(prepared_shards(folder)):
        names = set(read_about(path)["people"])
        if names & seen:
            remove_people(path, names & seen)
        seen |= names


def add_people(path: Path, origins: Mapping[Path, Sequence[str]]) -> None:
    """Writes a shard again, or for the first time, with people of other shards: shard -> their names.

    Their files keep their names, which begin with that of the shard they were prepared for and so are unique.
    """
    about = About(people={}, skipped=[], notes=[], crops=[])
    files: dict[str, bytes] = {}
    if path.is_file():
        about, files = read_shard(path)
    for origin, names in origins.items():
        other_about, other_files = read_shard(origin)
        for name in names:
            rows = [row for row in other_about["crops"] if row["person"] == name]
            key = sample_key(rows[0]["file"])
            files |= {file: data for file, data in other_files.items() if sample_key(file) == key}
            about["crops"] += rows
            about["people"][name] = len(rows)
    write_shard(path, about, files)


def remove_people(path: Path, names: Collection[str]) -> None:
    """Writes a shard again without some people."""
    about, files = read_shard(path)
    keys = {sample_key(row["file"]) for row in about["crops"] if row["person"] in names}
    about["crops"] = [row for row in about["crops"] if row["person"] not in names]
    about["people"] = {name: num for name, num in about["people"].items() if name not in names}
    write_shard(path, about, {file: data for file, data in files.items() if sample_key(file) not in keys})


def prepared_shards(folder: Path) -> list[Path]:
    """The prepared shards of a folder, those to train on first, as they were planned."""
    return [path for split in SPLITS for path in sorted(folder.glob(f"{split}-*.tar"))]


def split_name(path: Path) -> str:
    """The split that a shard is of."""
    return path.name.partition("-")[0]


def sample_key(file: str) -> str:
    """The part of a file's name that webdataset takes for that of the sample: what stands before the first dot."""
    return file.partition(".")[0]
