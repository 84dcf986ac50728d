"""What `--help` prints of a schema: each setting with its default, its type and limits, and a sentence."""

import re
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from hdb.limits import get_limit

TYPE_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
MIN_WIDTH, MAX_WIDTH = 60, 110  # of a line, in characters


class Setting(NamedTuple):
    """A field of a schema as a user sees it."""

    name: str  # dotted
    default: str
    type_name: str
    sentence: str


def describe(schema: type, values: Mapping[str, Any] | None = None) -> str:
    """The whole help page: what the command does, then its settings.

    Args:
        values: nested values to show as defaults, for example those of a YAML; None shows those of the schema.
    """
    width = min(max(shutil.get_terminal_size().columns, MIN_WIDTH), MAX_WIDTH)
    summary = (schema.__doc__ or "").split("\n\n")[0].replace("`", "")
    lines = [*textwrap.wrap(" ".join(summary.split()), width), "", "Settings, as name=value:", ""]
    for setting in list_settings(schema, values=values):
        lines.append(f"{setting.name}: {setting.default}  ({setting.type_name})")
        lines += textwrap.wrap(setting.sentence, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def list_settings(schema: type, prefix: str = "", values: Mapping[str, Any] | None = None) -> Iterator[Setting]:
    """Every field of a schema and of the options within it, in their order."""
    hints = get_type_hints(schema)
    for entry in fields(schema):
        hint = hints[entry.name]
        name = f"{prefix}{entry.name}"
        default = _default_of(entry) if values is None else values[entry.name]
        if is_dataclass(hint):
            yield from list_settings(hint, f"{name}.", None if values is None else default)
        else:
            yield Setting(name, _as_word(default), _type_name(hint, entry), _sentence_about(schema, entry.name))


def _sentence_about(schema: type, name: str) -> str:
    """The first sentence that names a field, in the docstring of its class or of a base class."""
    for part in schema.__mro__:
        text = " ".join((vars(part).get("__doc__") or "").split())
        for sentence in re.split(r"(?<=[.;:]) ", text):
            if f"`{name}`" in sentence:
                plain = sentence.replace("`", "").rstrip(".;:")
                if not plain.startswith(name):
                    plain = plain[0].upper() + plain[1:]
                return f"{plain}."
    return ""


def _type_name(hint: Any, entry: Field) -> str:
    """A type and its limits in words."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(argument for argument in get_args(hint) if argument is not type(None))
        name = _type_name(inner, entry)
        return f"{name}, or null" if "," in name else f"{name} or null"
    if get_origin(hint) is list:
        return f"list of {TYPE_NAMES.get(get_args(hint)[0], 'values')}s"
    if get_origin(hint) is dict:
        return "names and values"
    limit = get_limit(entry)
    name = TYPE_NAMES.get(hint, "values")
    return f"{name}, {limit.expected}" if limit else name


def _default_of(entry: Field) -> Any:
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def _as_word(value: Any) -> str:
    """A default as a user would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == "???":  # OmegaConf's mark of a field without a default
        return "must be given"
    if isinstance(value, list):
        return str(value).replace("'", "")
    return str(value) if value != "" else '""'
