"""Fills a schema in: defaults, YAML, key=value words."""

import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Schema = TypeVar("Schema")


def load(schema: type[Schema], argv: list[str]) -> Schema:
    """Merges the defaults of `schema`, then YAML files, then `key=value` words, in the order given.

    Args:
        schema: a dataclass of `experiments.config`.
        argv: paths ending in .yaml and words like `hypernet.iterations=2`; `--help` prints all fields and leaves. One
            value for a field that takes a list is a list of one.

    Raises:
        ValueError: an unknown key, a value of the wrong type, a missing file or a required field left open.

    >>> from experiments.config import Inspect
    >>> load(Inspect, ["base=sd15", "lidb.rank=2"]).lidb.rank
    2
    """
    config = OmegaConf.structured(schema)
    if {"-h", "--help"} & set(argv):
        print(f"{schema.__doc__}\n\nFields and defaults, each overridden by key=value:\n\n{OmegaConf.to_yaml(config)}")
        sys.exit(0)
    for word in argv:
        config = _merge(config, _differences(word, schema), origin=word)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"{', '.join(missing)} must be given: add {' '.join(f'{key}=...' for key in missing)}")
    return OmegaConf.to_object(config)


def dotted(config: object, prefix: str = "") -> dict[str, object]:
    """A config as flat {dotted name: value}: the names that YAML, command line, sweeps and logged runs share."""
    flat: dict[str, object] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        flat |= dotted(value, f"{prefix}{entry.name}.") if is_dataclass(value) else {f"{prefix}{entry.name}": value}
    return flat


def _differences(word: str, schema: type) -> DictConfig:
    if word.endswith((".yaml", ".yml")) and "=" not in word:
        if not Path(word).is_file():
            raise ValueError(f"no config file {word!r}; the shipped ones are under configs/")
        try:
            loaded = OmegaConf.load(word)
        except Exception as error:  # yaml's own errors share no base with OmegaConf's
            raise ValueError(f"{word} is not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, DictConfig):
            raise ValueError(f"{word} must hold keys and values, not {type(loaded).__name__}")
        return loaded
    if "=" not in word or word.startswith(("-", "=")):
        raise ValueError(f"{word!r} is neither a .yaml file nor key=value")
    try:
        loaded, key = OmegaConf.from_dotlist([word]), word.partition("=")[0]
    except Exception as error:
        raise ValueError(f"{word!r} is not readable as key=value: {' '.join(str(error).split())}") from None
    if _is_list(schema, key) and not isinstance(value := OmegaConf.select(loaded, key), ListConfig):
        OmegaConf.update(loaded, key, [value])
    return loaded


def _is_list(schema: type | None, key: str) -> bool:
    for name in key.split("."):
        known = {entry.name: entry.type for entry in fields(schema)} if is_dataclass(schema) else {}
        schema = known.get(name)
    return get_origin(schema) is list


def _merge(config: DictConfig, differences: DictConfig, *, origin: str) -> DictConfig:
    try:
        return OmegaConf.merge(config, differences)
    except OmegaConfBaseException as error:
        key, reason = error.full_key or origin, str(error).split("\n")[0]
        if reason.startswith("Key "):
            known = config if "." not in key else OmegaConf.select(config, key.rpartition(".")[0])
            raise ValueError(f"unknown config key {key!r} (in {origin}); known here: {', '.join(known)}") from None
        raise ValueError(f"{key} (in {origin}): {reason}") from None
