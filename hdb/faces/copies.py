"""The same picture twice, under other names perhaps: never in two splits."""

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from hdb.faces.folders import Other
from hdb.faces.photos import Listed, Photos
from hdb.faces.picture import name_of
from hdb.faces.prepared import leave_out, read_about
from hdb.faces.splits import Splits

KEPT_IN = ("test", "val", "train")  # there is most to train on, and a test must not shrink


class Copy(NamedTuple):
    """A picture that is left out of its split, because `of` is the same and in the split `kept_in`."""

    picture: Hashable
    of: Hashable
    kept_in: str


def copies(pictures: Iterable[tuple[str, Hashable, Hashable]]) -> list[Copy]:
    """Which of some (split, picture, content) to leave out, so that no content is in two splits.

    >>> copies([("train", "a.jpg", 1), ("train", "b.jpg", 1), ("test", "c.jpg", 1), ("val", "d.jpg", 2)])
    [Copy(picture='a.jpg', of='c.jpg', kept_in='test'), Copy(picture='b.jpg', of='c.jpg', kept_in='test')]
    """
    found: dict[Hashable, dict[str, list[Hashable]]] = defaultdict(lambda: defaultdict(list))
    for split, picture, content in pictures:
        found[content][split].append(picture)
    left_out = []
    for holders in found.values():
        kept_in, *others = (split for split in KEPT_IN if split in holders)
        of = holders[kept_in][0]
        left_out += [Copy(picture, of, kept_in) for split in others for picture in holders[split]]
    return left_out


def apart(photos: Photos, splits: Splits) -> tuple[Listed, Splits]:
    """Without pictures whose files are byte for byte in another split; people of whom none remains are in no split.

    The same pixels in files that differ are found when photos are prepared, which decodes them.
    """
    placed = [
        (split, path, size)
        for split in KEPT_IN
        for name in getattr(splits, split) or []
        for path in photos.get(name, ())
        if (size := _size(path))  # empty files are all alike, and refused by name later on
    ]
    spread: dict[int, set[str]] = defaultdict(set)
    for split, _, size in placed:
        spread[size].add(split)
    doubtful = [(split, path) for split, path, size in placed if len(spread[size]) > 1]
    contents = ((split, path, digest) for split, path in doubtful if (digest := _digest(path)))
    left_out = {copy.picture: copy for copy in copies(contents)}
    others = list(getattr(photos, "others", []))
    if not left_out:
        return Listed(photos, others), splits
    others += [
        Other(name_of(path), f"the same picture as {name_of(copy.of)}, which is in {copy.kept_in}")
        for path, copy in left_out.items()
    ]
    kept = {name: [path for path in pictures if path not in left_out] for name, pictures in photos.items()}
    gone = {name for name, pictures in kept.items() if not pictures}
    lists = {
        split: [name for name in names if name not in gone]
        for split in KEPT_IN
        if (names := getattr(splits, split)) is not None
    }
    people = {name: pictures for name, pictures in kept.items() if pictures}
    return Listed(people, others), replace(splits, **lists)


def part_shards(shards: Iterable[Path]) -> None:
    """Leaves out crops that are in another split too: of the same pixels, whatever the files they came from.

    Args:
        shards: those of one preparation, each called <split>-<number>.tar.
    """
    rows = {(path, row["file"]): row for path in shards for row in read_about(path).get("crops", [])}
    placed = ((place[0].name.partition("-")[0], place, row["digest"]) for place, row in rows.items())
    messages: dict[Path, dict[str, str]] = defaultdict(dict)
    for copy in copies(placed):
        path, file = copy.picture
        given, of = rows[copy.picture]["picture"], rows[copy.of]["picture"]
        messages[path][file] = f"{given} is the same picture as {of}, which is in {copy.kept_in}"
    for path, files in messages.items():
        leave_out(path, files)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.digest()
    except OSError:
        return None
