"""Parses the value of a `key=value` word. A text stays as it is, whatever YAML would make of it."""

import ast
import json
import re
import types
from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from hdb.prompts import IDENTIFIER

KeyPath = tuple[str, ...]  # names on the way to a setting
MAX_VALUES = 100_000  # of a YAML file with its aliases written out
NULLS = ("null", "None")  # ours, and what W&B's agent writes for a sweep's null
MINUS_SIGNS = ("\u2212", "\u2013")  # which word processors and web pages put in the place of "-"
WHOLE_NUMBER = re.compile(r"[+-]?\d+")
CLOSING = {"[": "]", "{": "}", "(": ")"}


def find_type(schema: Any, path: KeyPath) -> tuple[Any, bool]:
    """The type of the setting at a path, and whether it may be null. The type is `object` if there is none."""
    found = schema
    is_optional = False
    for name in path:
        if is_dataclass(found):
            found = get_type_hints(found).get(name, object)
        else:
            found = get_args(found)[1] if get_origin(found) is dict else object
        is_optional = get_origin(found) in (Union, types.UnionType) and type(None) in get_args(found)
        if is_optional:
            found = next(argument for argument in get_args(found) if argument is not type(None))
    return found, is_optional


def has_names(value_type: Any) -> bool:
    """Whether values of a type have names of their own: a dataclass of options, or a dictionary."""
    return is_dataclass(value_type) or get_origin(value_type) is dict


def is_text(value_type: Any) -> bool:
    """Whether values of a type are text or a list of texts, which are taken literally."""
    return value_type is str or value_type == list[str]


def parse_text(word: str, value_type: Any, *, is_optional: bool) -> str | list[str] | None:
    """The value of a word for a setting that is text, or that lists texts; one text is a list of one.

    A list is in brackets. Its texts are separated by commas outside of quotes and inner brackets.

    >>> parse_text("2024_05: a [V] face #1", str, is_optional=False)
    '2024_05: a [V] face #1'
    >>> parse_text("[a [V] face, 'oil, on wood']", list[str], is_optional=False)
    ['a [V] face', 'oil, on wood']
    """
    if is_optional and word in NULLS:
        return None
    if value_type is str:
        return word
    quoted = _parse_quoted_list(word)
    if quoted is not None:
        return quoted
    if not _is_list(word):
        return [word]
    return [_unquote(part.strip()) for part in _split_at_commas(word[1:-1]) if part.strip()]


def parse_python_dict(word: str) -> dict[str, Any] | None:
    """A dictionary as Python prints it, which is what W&B's agent writes; None if the word is none."""
    try:
        values = ast.literal_eval(word)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return values if isinstance(values, dict) and all(isinstance(key, str) for key in values) else None


def parse_scalar(word: str, value_type: Any, *, is_optional: bool) -> str:
    """A word for a setting that is not text, in YAML's spelling: null for None, and 24 for 24.0 of a whole number.

    Signs may be those of a word processor, and 016 is 16, which YAML takes for an octal number.

    >>> parse_scalar("24.0", int, is_optional=False), parse_scalar("\u22121", float, is_optional=False)
    ('24', '-1')
    """
    if is_optional and word in NULLS:
        return "null"
    if value_type in (int, float):
        word = word.strip()
        if word.startswith(MINUS_SIGNS):
            word = f"-{word[1:]}"
    if value_type is int:
        if WHOLE_NUMBER.fullmatch(word):
            return str(int(word))
        try:
            number = float(word)
        except ValueError:
            return word
        if number.is_integer() and abs(number) < 2**53:
            return str(int(number))
    return word


def parse_yaml(text: str, schema: Any) -> Any:
    """The values of a YAML text. Settings that are text keep their spelling: `root: 2024_05` is no number.

    Raises:
        ValueError: a name twice, or aliases that stand for an absurd number of values.
        yaml.YAMLError: it is no YAML.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return {}
    num_values = _count_values(node, {})
    if num_values > MAX_VALUES:
        raise ValueError(f"its aliases stand for {num_values} values, expected at most {MAX_VALUES}")
    return _construct(node, schema, ())


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """The number of values of a node with its aliases written out: nested aliases grow exponentially."""
    if id(node) not in counts:
        counts[id(node)] = MAX_VALUES + 1  # counts if the node contains itself
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [value for _, value in children]
        counts[id(node)] = 1 + sum(_count_values(child, counts) for child in children)
    return counts[id(node)]


def _construct(node: yaml.Node, schema: Any, path: KeyPath) -> Any:
    loader = yaml.SafeLoader("")
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError("a name there is a list or holds names itself, expected a word")
        names = [key.value for key, _ in node.value]
        repeated = sorted({str(name) for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{repeated[0]} stands there twice")
        return {key.value: _construct(value, schema, (*path, key.value)) for key, value in node.value}
    value_type, _ = find_type(schema, path)
    if value_type is int and isinstance(node, yaml.ScalarNode):
        number = parse_scalar(node.value, int, is_optional=False)  # YAML takes 016 for 14
        if WHOLE_NUMBER.fullmatch(number):
            return int(number)
        if ":" in number:  # and 1:30 for 90
            return number
    if not is_text(value_type) or node.tag == "tag:yaml.org,2002:null":
        return loader.construct_object(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return [
            item.value if isinstance(item, yaml.ScalarNode) else loader.construct_object(item) for item in node.value
        ]
    return node.value


def _parse_quoted_list(word: str) -> list[str] | None:
    """A list of quoted texts in JSON, or in Python as W&B's agent writes it; None if the word is none."""
    for parse in (json.loads, ast.literal_eval) if word.startswith("[") else ():
        try:
            values = parse(word)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return None


def _is_list(word: str) -> bool:
    """Whether the first bracket closes at the end. "[V]" is the identifier, and "[2023] me.png" is a file name."""
    if not word.startswith("[") or word.lower() == IDENTIFIER.lower():
        return False
    depth = 0
    for position, character in enumerate(_blank_quoted(word)):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return position == len(word) - 1
    return False


def _blank_quoted(word: str) -> str:
    """The word with quoted text replaced by spaces. A quote opens where a value begins, not within a word (it's)."""
    characters = []
    quote = ""
    is_start = True
    is_escaped = False
    for position, character in enumerate(word):
        if quote:
            characters.append(" ")
            quote = "" if character == quote and not is_escaped else quote
            is_escaped = character == "\\" and not is_escaped
        elif is_start and character in "'\"" and character in word[position + 1 :]:
            quote = character
            characters.append(" ")
        else:
            characters.append(character)
            is_start = character in "[,:" or (is_start and character.isspace())
    return "".join(characters)


def _split_at_commas(inner: str) -> list[str]:
    parts = []
    start = depth = 0
    for position, character in enumerate(_blank_quoted("," + inner)[1:]):
        depth += (character in CLOSING) - (character in CLOSING.values())
        if character == "," and depth <= 0:
            parts.append(inner[start:position])
            start = position + 1
    return [*parts, inner[start:]]


def _unquote(text: str) -> str:
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return json.loads(text)
    except ValueError:
        return text[1:-1]
