"""What words without a name mean: photos, files of people and prompts, as name=value words of the same command."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from hdb.files import ROOT

NAMED = re.compile(r"[A-Za-z_][\w.]*=")
WORLD = "configs/faceworld"  # the settings of the base that is shipped


def in_full(command: str, words: list[str]) -> list[str]:
    """The words as `python -m experiments.<command>` takes them, before them the config of the shipped base if none is.

    Raises:
        ValueError: words that the command has no use for.
    """
    bare = [word for word in words if not _is_named(word)] if command in MEANINGS else []
    named = [word for word in words if word not in bare]
    meant = MEANINGS[command](bare) if bare else []
    return [*_shipped(command, named), *meant, *named]


def _is_named(word: str) -> bool:
    """Whether a word says by itself what it is: name=value, a config, an option."""
    return word.endswith((".yaml", ".yml")) or word.startswith("-") or (bool(NAMED.match(word)) and not _is_file(word))


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except OSError:  # too long for a name: a prompt
        return False


def _shipped(command: str, named: list[str]) -> list[str]:
    if command not in MEANINGS or any(word.endswith((".yaml", ".yml")) or word.startswith("base.") for word in named):
        return []
    config = f"{WORLD}/{command}.yaml"
    return [config] if (ROOT / config).is_file() else []


def _photos(photos: list[str]) -> list[str]:
    first, *more = photos
    words = [f"reference={first}", *([f"more_references={json.dumps(more)}"] if more else [])]
    stem = Path(first).stem
    taken = Path(first).resolve() == Path(f"{stem}.png").resolve()  # where the sheet of pictures goes
    return [*words, f"output={stem}{'-subject' if taken else ''}.safetensors"]


def _people_and_prompts(bare: list[str]) -> list[str]:
    files = [word for word in bare if word.endswith(".safetensors") or _is_file(word)]
    prompts = [word for word in bare if word not in files]
    named = {"subject": files, "prompts": prompts}
    return [f"{name}={json.dumps(texts)}" for name, texts in named.items() if texts]


def _file(bare: list[str]) -> list[str]:
    subject = _only(bare, "export takes one file of a person")
    return [f"subject={subject}", f"output={Path(subject).stem}-lora.safetensors"]


def _file_or_base(bare: list[str]) -> list[str]:
    given = _only(bare, "inspect takes one file, or one base")
    return [f"subject={given}" if _is_file(given) or given.endswith(".safetensors") else f"base={given}"]


def _nothing(bare: list[str]) -> list[str]:
    raise ValueError(f"{bare[0]!r} was given, and demo takes only name=value")


def _only(bare: list[str], what: str) -> str:
    if len(bare) > 1:
        raise ValueError(f"{what}, given {len(bare)}: {', '.join(bare)}")
    return bare[0]


MEANINGS: dict[str, Callable[[list[str]], list[str]]] = {
    "personalize": _photos,
    "generate": _people_and_prompts,
    "export": _file,
    "inspect": _file_or_base,
    "demo": _nothing,
}
