"""The value of a `key=value` word: text as it stands, whatever YAML would make of it; lists are in brackets."""

import ast
import json
import types
from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from hdb.prompts import IDENTIFIER

Path = tuple[str, ...]  # names on the way to a field
_MOST_VALUES = 100_000
_NULLS = ("null", "None")  # ours, and what W&B's agent writes for a sweep's null
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def kind_of(schema: Any, path: Path) -> tuple[Any, bool]:
    """The type of a field by the names on the way to it, and whether it may be null; object where there is none."""
    kind, optional = schema, False
    for name in path:
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(name, object)
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else object
        optional = get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)
        if optional:
            kind = next(of for of in get_args(kind) if of is not type(None))
    return kind, optional


def holds_names(kind: Any) -> bool:
    """Whether values of a type have names of their own: options within options, or a dictionary."""
    return is_dataclass(kind) or get_origin(kind) is dict


def is_text(kind: Any) -> bool:
    """Whether values of a type are text, or lists of text: to be taken literally."""
    return kind is str or kind == list[str]


def text_of(word: str, kind: Any, *, optional: bool) -> str | list[str] | None:
    """What a word gives a field of text, or a field that lists texts, where one text is a list of one.

    A list is in brackets, its texts parted by commas that stand in no quotes and no brackets of their own.

    >>> text_of("2024_05: a [V] face #1", str, optional=False)
    '2024_05: a [V] face #1'
    >>> text_of("[a [V] face, 'oil, on wood']", list[str], optional=False)
    ['a [V] face', 'oil, on wood']
    """
    if optional and word in _NULLS:
        return None
    if kind is str:
        return word
    if (quoted := _quoted_texts(word)) is not None:
        return quoted
    return [_unquoted(part.strip()) for part in _parts(word[1:-1]) if part.strip()] if _is_list(word) else [word]


def python_values(word: str) -> dict[str, Any] | None:
    """A dictionary as Python writes it, and so W&B's agent; None if the word is none."""
    try:
        values = ast.literal_eval(word)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return values if isinstance(values, dict) and all(isinstance(key, str) for key in values) else None


def plain(word: str, kind: Any, *, optional: bool) -> str:
    """A word for a field that is no text, in YAML's spelling: null for None, and no fraction that is none.

    >>> plain("24.0", int, optional=False)
    '24'
    """
    if optional and word in _NULLS:
        return "null"
    if kind is int:
        try:
            number = float(word)
        except ValueError:
            return word
        if number.is_integer() and abs(number) < 2**53 and not word.strip().lstrip("+-").isdigit():
            return str(int(number))
    return word


def yaml_values(text: str, schema: Any) -> Any:
    """What YAML says, but fields of text as they are spelled there: `root: 2024_05` is that text and no number.

    Raises:
        ValueError: a name twice, or aliases that stand for more than anybody would write.
        yaml.YAMLError: it is no YAML.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return {}
    if (size := _written_out(node, {})) > _MOST_VALUES:
        raise ValueError(f"its aliases stand for {size} values, expected at most {_MOST_VALUES}")
    return _value(node, schema, ())


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node is without aliases, of which one may hold others, a billion in a dozen lines."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # if it holds itself
        values = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            values = [value for _, value in values]
        known[id(node)] = 1 + sum(_written_out(value, known) for value in values)
    return known[id(node)]


def _value(node: yaml.Node, schema: Any, path: Path) -> Any:
    loader = yaml.SafeLoader("")
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError("a name there is a list or holds names itself, expected a word")
        names = [key.value for key, _ in node.value]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]} stands there twice")
        return {name: _value(value, schema, (*path, name)) for name, (_, value) in zip(names, node.value, strict=True)}
    if not is_text(kind_of(schema, path)[0]) or node.tag == "tag:yaml.org,2002:null":
        return loader.construct_object(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return [of.value if isinstance(of, yaml.ScalarNode) else loader.construct_object(of) for of in node.value]
    return node.value


def _quoted_texts(word: str) -> list[str] | None:
    """What a list in JSON or Python holds, if that is quoted texts alone: W&B's agent writes Python."""
    for read in (json.loads, ast.literal_eval) if word.startswith("[") else ():
        try:
            values = read(word)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return None


def _is_list(word: str) -> bool:
    """Whether the bracket that a word begins with ends it; "[V]" is the identifier, and "[2023] me.png" a name."""
    if not word.startswith("[") or word.lower() == IDENTIFIER.lower():
        return False
    depth = 0
    for place, character in enumerate(_without_quoted(word)):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return place == len(word) - 1
    return False


def _without_quoted(word: str) -> str:
    """The word, but what stands in quotes blank: quotes count where a value begins, not within a word (it's)."""
    kept, quote, begins, escaped = [], "", True, False
    for place, character in enumerate(word):
        if quote:
            kept.append(" ")
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif begins and character in "'\"" and character in word[place + 1 :]:
            quote = character
            kept.append(" ")
        else:
            kept.append(character)
            begins = character in "[,:" or (begins and character.isspace())
    return "".join(kept)


def _parts(inner: str) -> list[str]:
    parts, start, depth = [], 0, 0
    for place, character in enumerate(_without_quoted("," + inner)[1:]):
        depth += (character in _CLOSING) - (character in _CLOSING.values())
        if character == "," and depth <= 0:
            parts.append(inner[start:place])
            start = place + 1
    return [*parts, inner[start:]]


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return json.loads(text)
    except ValueError:
        return text[1:-1]
