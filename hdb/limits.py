"""Limits of a setting, written where it stands: what a value must be, checked with its name before anything is read."""

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

_KEY = "limit"


@dataclass(frozen=True)
class Limit:
    """What a setting may be; None is always right, where its type takes it.

    Args:
        holds: whether a value is right.
        words: what is.
        says: the sentence for one that is not, of {name}, {value} and {words}.
    """

    holds: Callable[[Any], bool]
    words: str
    says: str = "{name} is {value!r}, expected {words}"

    def refuse(self, name: str, value: Any) -> None:
        raise ValueError(self.says.format(name=name, value=value, words=self.words))


def between(default: Any, least: float | int, most: float | int | None = None) -> Any:
    """A field of numbers from `least` on, to `most` if given."""
    words = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
    return limited(default, Limit(lambda value: least <= value and (most is None or value <= most), words))


def above(default: float | int | None, least: float | int, most: float | int | None = None) -> Any:
    """A field of numbers above `least`, not `least` itself; to `most` if given."""
    words = f"a number above {least:g}" + ("" if most is None else f" to {most:g}")
    return limited(default, Limit(lambda value: least < value and (most is None or value <= most), words))


def a_seed() -> Any:
    """A field of a seed, 0 by default: what torch and numpy both take."""
    return limited(0, Limit(lambda value: 0 <= value < 2**63, "0 to 2**63 - 1"))


def one_of(default: str | None, *names: str, **says: str) -> Any:
    """A field of words, of which one is chosen."""
    several = len(names) > 2 or says
    words = f"{'' if says else 'one of '}{', '.join(names)}" if several else " or ".join(names)
    return limited(default, Limit(lambda value: value in names, words, **says))


def texts(default: Callable[[], list[str]]) -> Any:
    """A field that lists texts: at least one."""
    return field(default_factory=default, metadata={_KEY: Limit(bool, "at least one text")})


def some_of(*names: str) -> Any:
    """A field that lists words, some of these; none by default."""
    limit = Limit(lambda value: set(value) <= set(names), f"some of {', '.join(names)}")
    return field(default_factory=list, metadata={_KEY: limit})


def limit_of(entry: Field) -> Limit | None:
    """The limit of a field, if it has one."""
    return entry.metadata.get(_KEY)


def check(options: Any, prefix: str = "") -> None:
    """Checks every setting of a dataclass and of those within it, then the conflicts that a dataclass knows of.

    No number may be infinite or NaN.

    Args:
        prefix: of the settings' names: `finetuning.`, for example.

    Raises:
        ValueError: names a setting, what was given and what is expected.
    """
    for entry in fields(options):
        value, name = getattr(options, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            check(value, f"{name}.")
        else:
            _check(value, name, limit_of(entry))
    if hasattr(options, "refuse_conflicts"):
        options.refuse_conflicts(prefix)


def _check(value: Any, name: str, limit: Limit | None) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {str(value)!r}, expected a finite number")
    if limit is not None and value is not None and not limit.holds(value):
        limit.refuse(name, value)


def limited(default: Any, limit: Limit) -> Any:
    """A field with a limit of its own."""
    return field(default=default, metadata={_KEY: limit})
