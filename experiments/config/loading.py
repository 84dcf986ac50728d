"""Fills a schema in: defaults, YAML, key=value words. Text goes around OmegaConf, which would read more into it."""

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.help import described
from experiments.config.words import holds_names, is_text, kind_of, plain, python_values, text_of, yaml_values
from hdb.files import read_text, resolve_shipped
from hdb.limits import check_limits

Schema = TypeVar("Schema")
Names = tuple[str, ...]  # on the way to a field
Texts = dict[Names, Any]  # a text, a list of texts, or None

WRITTEN = ("output", "portrait", "weights")  # fields that say where to write


def load(schema: type[Schema], argv: list[str]) -> Schema:
    """Merges the defaults of `schema`, then YAML files, then `key=value` words, in the order given; checks the values.

    Args:
        schema: a dataclass of `experiments.config`.
        argv: paths ending in .yaml and words like `hypernet.iterations=2`; `--help` prints all fields and leaves. A
            field that is text takes the rest of the word as it stands. One that takes a list takes one text, or
            several in brackets.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its limits, a missing file or a required field
            left open.

    >>> from experiments.config import Inspect
    >>> load(Inspect, ["base=sd15", "lidb.rank=2"]).lidb.rank
    2
    """
    config, texts = OmegaConf.structured(schema), {}
    if {"-h", "--help"} & set(argv):
        print(described(schema))
        sys.exit(0)
    for word in argv:
        differences, said = _differences(word, schema)
        config = _merge(config, differences, schema, origin=word)
        texts |= said
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"{', '.join(missing)} must be given: add {' '.join(f'{key}=...' for key in missing)}")
    filled = OmegaConf.to_object(config)
    for names, value in texts.items():
        _set(filled, names, value)
    _find_shipped(filled)
    check_limits(filled)
    return filled


def knows(schema: type, word: str) -> bool:
    """Whether a `key=value` word names a field of a schema."""
    return kind_of(schema, tuple(word.partition("=")[0].split(".")))[0] is not object


def dotted(config: object, prefix: str = "") -> dict[str, object]:
    """A config as flat {dotted name: value}: the names that YAML, command line, sweeps and logged runs share."""
    flat: dict[str, object] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        flat |= dotted(value, f"{prefix}{entry.name}.") if is_dataclass(value) else {f"{prefix}{entry.name}": value}
    return flat


def _find_shipped(config: object) -> None:
    """What the project ships is found from any folder; where to write is where a user is."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            _find_shipped(value)
        elif isinstance(value, str) and entry.name not in WRITTEN:
            setattr(config, entry.name, value if (found := resolve_shipped(value)) == Path(value) else str(found))


def _differences(word: str, schema: type) -> tuple[DictConfig, Texts]:
    """What a word changes, for OmegaConf with a stand-in for each text, and the texts."""
    key, equals, given = word.partition("=")
    path = tuple(key.split("."))
    kind, optional = kind_of(schema, path)
    if word.endswith((".yaml", ".yml")) and (not equals or (kind is object and Path(word).is_file())):
        return _stood_in(_read_yaml(word, schema), schema)
    if not equals or word.startswith(("-", "=")):
        raise ValueError(f"{word!r} is neither a .yaml file nor key=value")
    try:
        if is_text(kind):
            value = text_of(given, kind, optional=optional)
        elif kind is object:  # unknown, whatever the value is
            value = 0
        elif holds_names(kind):
            value = python_values(given)
            value = yaml_values(given, kind) if value is None else value
        else:
            return OmegaConf.from_dotlist([f"{key}={plain(given, kind, optional=optional)}"]), {}
    except Exception as error:  # yaml's own errors share no base with OmegaConf's
        raise ValueError(f"{word!r} is not readable as key=value: {' '.join(str(error).split())}") from None
    for name in reversed(path):
        value = {name: value}
    return _stood_in(value, schema)


def _read_yaml(path: str, schema: type) -> Mapping[str, Any]:
    if not (found := resolve_shipped(path)).is_file():
        raise ValueError(f"no config file {path!r}; the shipped ones are under configs/")
    try:
        loaded = yaml_values(read_text(found), schema)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _stood_in(values: Mapping[str, Any], schema: type) -> tuple[DictConfig, Texts]:
    """The values with "text" for each text, and the texts; one that is no text, or not null, stays for OmegaConf.

    Raises:
        ValueError: names and values where a field takes none, or something else where it takes those.
    """
    texts: Texts = {}

    def stand_in(value: Any, path: Names) -> Any:
        kind, optional = kind_of(schema, path)
        if isinstance(value, Mapping):
            if kind is not object and not holds_names(kind):
                expected = "a list" if get_origin(kind) is list else "a single value"
                raise ValueError(f"{'.'.join(path)} was given the names {', '.join(value)}, expected {expected}")
            return {name: stand_in(of, (*path, name)) for name, of in value.items()}
        if holds_names(kind) and value is not None:
            raise ValueError(f"{'.'.join(path)} is {value!r}, expected names and values")
        if value is None and is_text(kind) and optional:
            texts[path] = None
        elif kind is str and isinstance(value, str):
            texts[path] = value
            return "text"
        elif kind == list[str] and isinstance(value, str):
            texts[path] = [value]
            return ["text"]
        elif kind == list[str] and isinstance(value, list) and all(isinstance(text, str) for text in value):
            texts[path] = value
            return ["text"] * len(value)
        return value

    try:
        return OmegaConf.create(stand_in(values, ())), texts
    except OmegaConfBaseException as error:
        raise ValueError(str(error).split("\n")[0]) from None


def _set(config: object, names: Names, value: Any) -> None:
    *path, last = names
    for name in path:
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    setattr(config, last, value)


def _merge(config: DictConfig, differences: DictConfig, schema: type, *, origin: str) -> DictConfig:
    try:
        return OmegaConf.merge(config, differences)
    except OmegaConfBaseException as error:
        key, reason = error.full_key or origin, str(error).split("\n")[0]
        if reason.startswith("Key "):
            owner, _ = kind_of(schema, tuple(key.split(".")[:-1]))
            known = ", ".join(entry.name for entry in fields(owner)) if is_dataclass(owner) else "none"
            raise ValueError(f"unknown config key {key!r} (in {origin}); known here: {known}") from None
        raise ValueError(f"{key} (in {origin}): {reason}") from None
