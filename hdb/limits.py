"""Dataclass fields with limits, which are checked by name before anything is read or trained."""

import math
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

_KEY = "limit"


@dataclass(frozen=True)
class Limit:
    """What a setting may be. None always passes.

    Args:
        allows: Whether a value is allowed.
        expected: The allowed values in words.
        message: Template of the error, with {name}, {value} and {expected}.
    """

    allows: Callable[[Any], bool]
    expected: str
    message: str = "{name} is {value!r}, expected {expected}"

    def check(self, value: Any, *, name: str) -> None:
        """Raises ValueError if the value is not allowed."""
        if value is not None and not self.allows(value):
            raise ValueError(self.message.format(name=name, value=value, expected=self.expected))


def limited_field(default: Any, limit: Limit) -> Any:
    """A dataclass field with any limit."""
    return field(default=default, metadata={_KEY: limit})


def number_field(
    default: int | float | None,
    *,
    ge: int | float | None = None,
    gt: int | float | None = None,
    le: int | float | None = None,
) -> Any:
    """A dataclass field of a number with bounds, named as in pydantic.

    Args:
        ge: The number must be greater than or equal to this. Either `ge` or `gt` must be given.
        gt: The number must be greater than this.
        le: The number must be less than or equal to this.
    """
    if gt is not None:
        expected = f"a number above {gt:g}" + ("" if le is None else f" to {le:g}")
    else:
        expected = f"at least {ge:g}" if le is None else f"{ge:g} to {le:g}"

    def allows(value: int | float) -> bool:
        above_minimum = value > gt if gt is not None else value >= ge
        return above_minimum and (le is None or value <= le)

    return limited_field(default, Limit(allows, expected))


def seed_field() -> Any:
    """A dataclass field of a random seed, 0 by default, within the range that both torch and numpy take."""
    return limited_field(0, Limit(lambda value: 0 <= value < 2**63, "0 to 2**63 - 1"))


def choice_field(default: str | None, choices: Iterable[str], *, message: str | None = None) -> Any:
    """A dataclass field of a word that must be one of the choices.

    Args:
        message: As in `Limit`, if the usual sentence does not fit.
    """
    names = tuple(choices)
    if message is not None:
        return limited_field(default, Limit(lambda value: value in names, ", ".join(names), message))
    expected = f"one of {', '.join(names)}" if len(names) > 2 else " or ".join(names)
    return limited_field(default, Limit(lambda value: value in names, expected))


def choices_field(choices: Iterable[str]) -> Any:
    """A dataclass field of a list whose items must be among the choices. The default is an empty list."""
    names = tuple(choices)
    limit = Limit(lambda value: set(value) <= set(names), f"some of {', '.join(names)}")
    return field(default_factory=list, metadata={_KEY: limit})


def texts_field(default_factory: Callable[[], list[str]]) -> Any:
    """A dataclass field of a list of texts that must not be empty."""
    return field(default_factory=default_factory, metadata={_KEY: Limit(bool, "at least one text")})


def get_limit(setting: Field) -> Limit | None:
    """The limit of a dataclass field, if it has one."""
    return setting.metadata.get(_KEY)


def check_limits(options: Any, prefix: str = "") -> None:
    """Checks every setting of a dataclass, those of nested dataclasses, and then the conflicts between settings.

    Numbers must be finite. A dataclass checks for conflicts in a method `check_conflicts(prefix)`, if it has one.

    Args:
        prefix: Put before the names of settings in errors, for example `finetuning.`.

    Raises:
        ValueError: A setting is not allowed. Names the setting, its value and what was expected.
    """
    for setting in fields(options):
        value = getattr(options, setting.name)
        name = f"{prefix}{setting.name}"
        if is_dataclass(value):
            check_limits(value, f"{name}.")
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {str(value)!r}, expected a finite number")
        limit = get_limit(setting)
        if limit is not None:
            limit.check(value, name=name)
    if hasattr(options, "check_conflicts"):
        options.check_conflicts(prefix)
