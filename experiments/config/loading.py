"""Fills a schema: defaults, YAML files, key=value words. Texts go around OmegaConf, which would interpret them."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.help import describe, list_settings
from experiments.config.words import (
    KeyPath,
    find_type,
    has_names,
    is_text,
    parse_python_dict,
    parse_scalar,
    parse_text,
    parse_yaml,
)
from hdb.files import read_text, resolve_shipped
from hdb.limits import check_limits

Schema = TypeVar("Schema")
Texts = dict[KeyPath, Any]  # a text, a list of texts, or None

WRITTEN = ("output", "portrait", "weights")  # settings that say where to write
TYPE_ERRORS = {
    r"Value (.*) of type '.*' could not be converted to Integer": "a whole number",
    r"Value (.*) of type '.*' could not be converted to Float": "a number",
    r"Value (.*) is not a valid bool": "true or false",
    r"Incompatible value 'None' for field of type": "a value, as it cannot be null",
}
RENAMED = {
    "num_preview_identities": "preview.num_identities",
    "preview_prompts": "preview.prompts",
    "text_scale": "text_encoder_scale",
}


def load(schema: type[Schema], argv: list[str]) -> Schema:
    """Merges the defaults of `schema`, YAML files and `key=value` words, in the order given, and checks the values.

    `~` is the home folder in every path. What the project ships is found from any folder.

    Args:
        schema: a dataclass of `experiments.config`.
        argv: paths ending in .yaml and words like `hypernet.iterations=2`; `--help` prints all settings and exits. A
            setting that is text takes the rest of the word as it stands. One that takes a list takes one text, or
            several in brackets.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its limits, a missing file or a required
            setting left open.

    >>> from experiments.config import Inspect
    >>> load(Inspect, ["base=sd15", "lidb.rank=2"]).lidb.rank
    2
    """
    config = OmegaConf.structured(schema)
    required = OmegaConf.missing_keys(config)
    texts: Texts = {}
    asks_for_help = bool({"-h", "--help"} & set(argv))
    for word in argv:
        if word in ("-h", "--help"):
            continue
        changes, changed_texts = _parse_word(word, schema)
        config = _merge(config, changes, schema, origin=word)
        texts |= changed_texts
    if asks_for_help:
        values = OmegaConf.to_container(config)
        for path, text in texts.items():
            _set(values, path, text)
        print(describe(schema, values))
        sys.exit(0)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given: add {' '.join(f'{key}=...' for key in missing)}")
    for path, text in texts.items():
        if text in ("", [""]) and (".".join(path) in required or path[-1] in WRITTEN):
            raise ValueError(f"{'.'.join(path)} is empty, expected a text")
    filled = OmegaConf.to_object(config)
    for path, text in texts.items():
        _set(filled, path, text)
    _resolve_paths(filled)
    check_limits(filled)
    return filled


def is_setting(schema: type, word: str) -> bool:
    """Whether a `key=value` word names a setting of a schema."""
    return find_type(schema, tuple(word.partition("=")[0].split(".")))[0] is not object


def dotted(config: object, prefix: str = "") -> dict[str, object]:
    """A config as flat {dotted name: value}: the names that YAML, command line, sweeps and logged runs share."""
    flat: dict[str, object] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            flat |= dotted(value, f"{prefix}{entry.name}.")
        else:
            flat[f"{prefix}{entry.name}"] = value
    return flat


def _resolve_paths(config: object) -> None:
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            _resolve_paths(value)
        elif isinstance(value, str):
            setattr(config, entry.name, _resolve_path(value, is_written=entry.name in WRITTEN))
        elif isinstance(value, list):
            setattr(config, entry.name, [_expand_home(item) if isinstance(item, str) else item for item in value])


def _resolve_path(text: str, *, is_written: bool) -> str:
    text = _expand_home(text)
    if is_written:
        return text
    found = resolve_shipped(text)
    return text if found == Path(text) else str(found)


def _expand_home(text: str) -> str:
    """`~/runs` as the path that a shell makes of it; a text that is no path stays."""
    return os.path.expanduser(text) if text.startswith("~") else text


def _parse_word(word: str, schema: type) -> tuple[DictConfig, Texts]:
    """What a word changes: the values for OmegaConf, with a placeholder for each text, and the texts."""
    key, equals, text = word.partition("=")
    path = tuple(key.split("."))
    expected_type, is_optional = find_type(schema, path)
    is_unknown = expected_type is object
    if word.endswith((".yaml", ".yml")) and (not equals or (is_unknown and Path(word).is_file())):
        return _split_texts(_read_yaml(_expand_home(word), schema), schema)
    if not equals or word.startswith(("-", "=")):
        raise ValueError(f"{word!r} is neither a .yaml file nor key=value")
    try:
        if is_text(expected_type):
            value = parse_text(text, expected_type, is_optional=is_optional)
        elif is_unknown:
            value = 0  # the key is refused, whatever the value is
        elif has_names(expected_type):
            value = parse_python_dict(text)
            if value is None:
                value = parse_yaml(text, expected_type)
        else:
            scalar = parse_scalar(text, expected_type, is_optional=is_optional)
            return OmegaConf.from_dotlist([f"{key}={scalar}"]), {}
    except Exception as error:  # yaml's errors and OmegaConf's have no common base
        raise ValueError(f"{word!r} is not readable as key=value: {' '.join(str(error).split())}") from None
    for name in reversed(path):
        value = {name: value}
    return _split_texts(value, schema)


def _read_yaml(path: str, schema: type) -> Mapping[str, Any]:
    found = resolve_shipped(path)
    if not found.is_file():
        raise ValueError(f"no config file {path!r}; the shipped ones are under configs/")
    try:
        loaded = parse_yaml(read_text(found), schema)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _split_texts(values: Mapping[str, Any], schema: type) -> tuple[DictConfig, Texts]:
    """The values with the placeholder "text" for each text, and the texts.

    A value that is no text where one is expected stays, for OmegaConf to refuse.

    Raises:
        ValueError: names and values where a setting takes none, or something else where it takes those.
    """
    texts: Texts = {}
    try:
        return OmegaConf.create(_replace_texts(values, (), schema, texts)), texts
    except OmegaConfBaseException as error:
        raise ValueError(str(error).split("\n")[0]) from None


def _replace_texts(value: Any, path: KeyPath, schema: type, texts: Texts) -> Any:
    """The value with placeholders; the texts are added to `texts`."""
    expected_type, is_optional = find_type(schema, path)
    if isinstance(value, Mapping):
        if expected_type is not object and not has_names(expected_type):
            expected = "a list" if get_origin(expected_type) is list else "a single value"
            raise ValueError(f"{'.'.join(path)} was given the names {', '.join(value)}, expected {expected}")
        return {name: _replace_texts(inner, (*path, name), schema, texts) for name, inner in value.items()}
    if has_names(expected_type) and value is not None:
        if is_dataclass(expected_type) and "names" in {entry.name for entry in fields(expected_type)}:
            raise ValueError(f"{'.'.join(path)} is {value!r}, expected names and values: it is {'.'.join(path)}.names")
        raise ValueError(f"{'.'.join(path)} is {value!r}, expected names and values")
    if value is None and is_text(expected_type) and is_optional:
        texts[path] = None
    elif expected_type is str and isinstance(value, str):
        texts[path] = value
        return "text"
    elif expected_type == list[str] and isinstance(value, str):
        texts[path] = [value]
        return ["text"]
    elif expected_type == list[str] and isinstance(value, list) and all(isinstance(text, str) for text in value):
        texts[path] = value
        return ["text"] * len(value)
    return value


def _set(config: Any, path: KeyPath, value: Any) -> None:
    *parents, last = path
    for name in parents:
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    if isinstance(config, dict):
        config[last] = value
    else:
        setattr(config, last, value)


def _merge(config: DictConfig, changes: DictConfig, schema: type, *, origin: str) -> DictConfig:
    try:
        return OmegaConf.merge(config, changes)
    except OmegaConfBaseException as error:
        key = error.full_key or origin
        reason = str(error).split("\n")[0]
        if not reason.startswith("Key "):
            raise ValueError(_explain(key, origin, reason)) from None
        raise ValueError(f"unknown config key {key!r} (in {origin}); {_suggest(key, schema)}") from None


def _explain(key: str, origin: str, reason: str) -> str:
    """A sentence for a value of the wrong type, from OmegaConf's."""
    place = key if origin.startswith(f"{key}=") else f"{key} in {origin}"
    for pattern, expected in TYPE_ERRORS.items():
        match = re.match(pattern, reason)
        if match:
            value = match[1] if match.groups() else "null"
            return f"{place} is {value}, expected {expected}"
    return f"{place}: {reason}"


def _suggest(key: str, schema: type) -> str:
    """The settings that an unknown key may mean: those of the same name elsewhere, else those beside it."""
    suffix = f".{key}."
    names = [f".{setting.name}." for setting in list_settings(schema)]
    moved = [name[1 : name.index(suffix) + len(key) + 1] for name in names if suffix in name]
    if key in RENAMED and f".{RENAMED[key]}." in names:
        moved.append(RENAMED[key])
    if moved:
        return f"it is {' or '.join(dict.fromkeys(moved))}"
    parent, _ = find_type(schema, tuple(key.split(".")[:-1]))
    names = [entry.name for entry in fields(parent)] if is_dataclass(parent) else ["none"]
    return f"known here: {', '.join(names)}"
