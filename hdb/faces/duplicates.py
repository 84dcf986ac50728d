"""Keeps the same picture out of two splits, whatever its names are."""

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from hdb.faces.folders import UnusedFile
from hdb.faces.photos import PhotoListing, Photos
from hdb.faces.picture import picture_name
from hdb.faces.shard_writer import read_about, remove_crops
from hdb.faces.splits import Splits

# The first of these splits that holds a picture keeps it: there is most to train on, and a test must not shrink.
PRECEDENCE = ("test", "val", "train")


class Duplicate(NamedTuple):
    """A picture that is dropped from its split, because the same one, `original`, is in the split `kept_in`."""

    picture: Hashable
    original: Hashable
    kept_in: str


def find_duplicates(pictures: Iterable[tuple[str, Hashable, Hashable]]) -> list[Duplicate]:
    """Which of some (split, picture, content) to drop, so that no content is in two splits.

    >>> find_duplicates([("train", "a.jpg", 1), ("test", "c.jpg", 1), ("val", "d.jpg", 2)])
    [Duplicate(picture='a.jpg', original='c.jpg', kept_in='test')]
    """
    by_content: dict[Hashable, dict[str, list[Hashable]]] = defaultdict(lambda: defaultdict(list))
    for split, picture, content in pictures:
        by_content[content][split].append(picture)
    duplicates = []
    for by_split in by_content.values():
        kept_in, *other_splits = (split for split in PRECEDENCE if split in by_split)
        original = by_split[kept_in][0]
        for split in other_splits:
            duplicates += [Duplicate(picture, original, kept_in) for picture in by_split[split]]
    return duplicates


def drop_duplicate_photos(photos: Photos, splits: Splits) -> tuple[PhotoListing, Splits]:
    """Drops pictures whose files are byte for byte in another split, and people of whom none is left.

    The same pixels in different files are found when photos are prepared, which decodes them.
    """
    sized = []
    splits_by_size: dict[int, set[str]] = defaultdict(set)
    for split in PRECEDENCE:
        for name in getattr(splits, split) or []:
            for path in photos.get(name, ()):
                size = _size(path)
                if size:  # empty files are all alike; they are refused by name later on
                    sized.append((split, path, size))
                    splits_by_size[size].add(split)
    hashed = [(split, path, _digest(path)) for split, path, size in sized if len(splits_by_size[size]) > 1]
    duplicates = {
        duplicate.picture: duplicate for duplicate in find_duplicates(row for row in hashed if row[2] is not None)
    }
    unused = list(getattr(photos, "unused", []))
    if not duplicates:
        return PhotoListing(photos, unused), splits
    for path, duplicate in duplicates.items():
        reason = f"the same picture as {picture_name(duplicate.original)}, which is in {duplicate.kept_in}"
        unused.append(UnusedFile(picture_name(path), reason))
    kept = {name: [path for path in pictures if path not in duplicates] for name, pictures in photos.items()}
    kept_photos = {name: pictures for name, pictures in kept.items() if pictures}
    kept_names = {}
    for split in PRECEDENCE:
        names = getattr(splits, split)
        if names is not None:
            kept_names[split] = [name for name in names if kept.get(name, True)]  # an unknown name is refused later on
    return PhotoListing(kept_photos, unused), replace(splits, **kept_names)


def drop_duplicate_crops(shards: Iterable[Path]) -> None:
    """Removes crops that are in another split too, by their pixels, whatever files they came from.

    Args:
        shards: those of one preparation, each called <split>-<number>.tar.
    """
    rows = {(path, row["file"]): row for path in shards for row in read_about(path).get("crops", [])}
    crops = [(path.name.partition("-")[0], (path, file), row["digest"]) for (path, file), row in rows.items()]
    messages: dict[Path, dict[str, str]] = defaultdict(dict)
    for duplicate in find_duplicates(crops):
        path, file = duplicate.picture
        picture, original = rows[duplicate.picture]["picture"], rows[duplicate.original]["picture"]
        messages[path][file] = f"{picture} is the same picture as {original}, which is in {duplicate.kept_in}"
    for path, message_of_file in messages.items():
        remove_crops(path, message_of_file)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _digest(path: Path) -> bytes | None:
    digest = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
