"""Lists of the identities to train, validate and test on, kept in a JSON file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from hdb.files import read_text

SPLITS_FILE = "splits.json"  # beside prepared shards, and in the folder of every run


@dataclass(frozen=True)
class Splits:
    """Three lists of identities that have nobody in common.

    Args:
        train: None for a stream whose people nobody has listed: everybody who is in neither other list.
        data: the dataset that the names belong to, as names of two datasets may coincide.

    Raises:
        ValueError: an identity is listed twice.

    Example:
        >>> Splits.from_names(["ada", "bob", "cyd", "dan"], num_val=1, num_test=1)
        Splits(train=['ada', 'bob'], val=['cyd'], test=['dan'], data='')
    """

    train: list[str] | None
    val: list[str]
    test: list[str]
    data: str = ""

    def __post_init__(self) -> None:
        lists = {"train": self.train or [], "val": self.val, "test": self.test}
        for names in lists.values():
            refuse_duplicates(names)
        refuse_overlap(**lists)

    @classmethod
    def from_names(cls, names: Sequence[str], *, num_val: int, num_test: int) -> "Splits":
        """Takes the last names for test, those before for validation and the others to train on.

        Raises:
            ValueError: nobody is left to train on.
        """
        if num_val < 0 or num_test < 0 or num_val + num_test >= len(names):
            raise ValueError(
                f"num_val_identities is {num_val} and num_test_identities {num_test}; expected at most "
                f"{len(names) - 1} together, as there are {len(names)} identities and one is needed to train on"
            )
        val_start = len(names) - num_test - num_val
        test_start = len(names) - num_test
        return cls(list(names[:val_start]), list(names[val_start:test_start]), list(names[test_start:]))

    @classmethod
    def load(cls, path: str | Path) -> "Splits":
        """Reads a JSON file with the lists "train", "val" and "test", and perhaps the text "data".

        Raises:
            ValueError: no such file, no such lists, or an identity that is listed twice.
        """
        if not Path(path).is_file():
            raise ValueError(f'no splits in {path}; expected a JSON file with lists "train", "val" and "test"')
        try:
            content = json.loads(read_text(path))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not readable as JSON: {error}") from None
        content = content if isinstance(content, dict) else {}
        lists = {split: content.get(split) for split in ("train", "val", "test")}
        for split, names in lists.items():
            if split == "train" and "train" in content and names is None:  # a stream
                continue
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{path} has no list {split!r} of identities; expected the lists train, val and test")
        try:
            return cls(**lists, data=str(content.get("data", "")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def refuse_duplicates(names: Iterable[str]) -> None:
    """Raises ValueError naming the first identity that is listed twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"identity {name!r} is listed twice; expected each identity once")
        seen.add(name)


def refuse_overlap(**splits: Sequence[str]) -> None:
    """Raises ValueError if two splits share an identity, as in refuse_overlap(train=[...], test=[...])."""
    for (first, first_names), (second, second_names) in combinations(splits.items(), 2):
        shared = sorted(set(first_names) & set(second_names))
        if shared:
            problem = f"{len(shared)} identities are in both {first} and {second}, first {shared[0]!r}"
            raise ValueError(f"{problem}; splits must be disjoint")
