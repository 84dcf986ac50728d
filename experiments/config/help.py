"""What `--help` says of a schema: each field with its default, its type and limits, and a sentence."""

import re
import shutil
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from hdb.limits import get_limit

TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
NARROWEST, WIDEST = 60, 110  # of a line, in characters


class Setting(NamedTuple):
    """A field as a user sees it."""

    name: str  # dotted
    default: str
    kind: str
    sentence: str


def described(schema: type) -> str:
    """The whole page: what the command does, then its settings."""
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    what = (schema.__doc__ or "").split("\n\n")[0]
    lines = [*textwrap.wrap(" ".join(what.replace("`", "").split()), width), "", "Settings, as name=value:", ""]
    for setting in settings(schema):
        lines.append(f"{setting.name}: {setting.default}  ({setting.kind})")
        lines += textwrap.wrap(setting.sentence, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """Every field of a schema and of the options within it, in their order."""
    hints = get_type_hints(schema)
    for entry in fields(schema):
        kind, name = hints[entry.name], f"{prefix}{entry.name}"
        if is_dataclass(kind):
            yield from settings(kind, f"{name}.")
        else:
            yield Setting(name, spelled(default_of(entry)), kind_of(kind, entry), sentence_of(schema, entry.name))


def sentence_of(schema: type, name: str) -> str:
    """The first sentence on a field, in the docstring of the class that has it or of one made of that."""
    for part in schema.__mro__:
        text = " ".join((vars(part).get("__doc__") or "").split())
        for sentence in re.split(r"(?<=[.;:]) ", text):
            if f"`{name}`" in sentence:
                told = sentence.replace("`", "").rstrip(".;:")
                return told[0].upper() + told[1:] + "." if not told.startswith(name) else f"{told}."
    return ""


def kind_of(kind: Any, entry: Field) -> str:
    """A type and its limits in words."""
    inner = [of for of in get_args(kind) if of is not type(None)]
    if get_origin(kind) in (Union, types.UnionType):
        words = f"{(of := kind_of(inner[0], entry))}{',' if ',' in of else ''} or null"
    elif get_origin(kind) is list:
        words = f"list of {TYPES.get(inner[0], 'values')}s"
    elif get_origin(kind) is dict:
        words = "names and values"
    else:
        limit = get_limit(entry)
        words = TYPES.get(kind, "values") + (f", {limit.expected}" if limit else "")
    return words


def default_of(entry: Field) -> Any:
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def spelled(value: Any) -> str:
    """A default as a user would write it; what must be given has none."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == "???":
        return "must be given"
    return str(value).replace("'", "") if isinstance(value, list) else str(value) if value != "" else '""'
