"""Turns words without a name (photos, files of people, prompts) into the name=value words of the same command."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from hdb.files import ROOT

NAMED = re.compile(r"[A-Za-z_][\w.]*=")
SHIPPED_CONFIGS = "configs/faceworld"  # for the base that is shipped


def expand_words(command: str, words: list[str]) -> list[str]:
    """The words as `python -m experiments.<command>` takes them, after the config of the shipped base if none is given.

    Raises:
        ValueError: words that the command has no use for.
    """
    if command not in EXPANSIONS:
        return words
    positional = [word for word in words if not _is_named(word)]
    named = [word for word in words if _is_named(word)]
    expanded = EXPANSIONS[command](positional) if positional else []
    return [*_shipped_config(command, named), *expanded, *named]


def _is_named(word: str) -> bool:
    """Whether a word says by itself what it is: name=value, a config, an option."""
    if word.endswith((".yaml", ".yml")) or word.startswith("-"):
        return True
    return bool(NAMED.match(word)) and not _is_file(word)


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except OSError:  # too long for a name: a prompt
        return False


def _shipped_config(command: str, named: list[str]) -> list[str]:
    if any(word.endswith((".yaml", ".yml")) or word.startswith("base.") for word in named):
        return []
    config = f"{SHIPPED_CONFIGS}/{command}.yaml"
    return [config] if (ROOT / config).is_file() else []


def _photos(words: list[str]) -> list[str]:
    first, *more = words
    expanded = [f"reference={first}", f"output={Path(first).stem}.safetensors"]
    return [*expanded, f"more_references={json.dumps(more)}"] if more else expanded


def _people_and_prompts(words: list[str]) -> list[str]:
    files = [word for word in words if word.endswith(".safetensors") or _is_file(word)]
    prompts = [word for word in words if word not in files]
    values = {"subject": files, "prompts": prompts}
    return [f"{name}={json.dumps(texts)}" for name, texts in values.items() if texts]


def _subject(words: list[str]) -> list[str]:
    subject = _only_word(words, "export takes one file of a person")
    return [f"subject={subject}", f"output={Path(subject).stem}-lora.safetensors"]


def _subject_or_base(words: list[str]) -> list[str]:
    word = _only_word(words, "inspect takes one file, or one base")
    return [f"subject={word}" if _is_file(word) or word.endswith(".safetensors") else f"base={word}"]


def _nothing(words: list[str]) -> list[str]:
    raise ValueError(f"{words[0]!r} was given, and demo takes only name=value")


def _only_word(words: list[str], expected: str) -> str:
    if len(words) > 1:
        raise ValueError(f"{expected}, given {len(words)}: {', '.join(words)}")
    return words[0]


EXPANSIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "personalize": _photos,
    "generate": _people_and_prompts,
    "export": _subject,
    "inspect": _subject_or_base,
    "demo": _nothing,
}
