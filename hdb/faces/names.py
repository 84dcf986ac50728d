"""Names as file systems have them: bytes of any kind, line breaks, brackets; and as a sentence or a file takes them."""

import os
import re
from collections.abc import Iterable, Sequence

MAX_LETTERS = 100  # of a name that suffixes are put behind
MAX_BYTES = 200  # of the same; file systems take 255


def as_text(name: str) -> str:
    r"""A file's name as text that can be written anywhere: bytes that are no UTF-8 become `\xe9`, other names stay.

    >>> as_text("caf\udce9")
    'caf\\xe9'
    """
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair of UTF-16, from a JSON file: no file system's doing
        return name.encode("utf-8", "backslashreplace").decode()


def in_sentence(name: str) -> str:
    r"""A name within a message: also line breaks and what turns the direction of reading are written out.

    >>> in_sentence("two\nlines.jpg")
    'two\\nlines.jpg'
    """
    text = as_text(name)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each of some distinct names, all different, also where upper and lower case are one.

    >>> file_names(["me (1).jpg", "me [1].jpg", "ann/0.png"])
    ['me__1_.jpg', 'me__1_.jpg-2', 'ann_0.png']
    """
    letters = [re.sub(r"[^\w.-]", "_", as_text(name)).lstrip(".")[:MAX_LETTERS] for name in names]
    plain = [name.encode()[:MAX_BYTES].decode(errors="ignore") or "_" for name in letters]
    return list(_told_apart(plain))


def _told_apart(names: Sequence[str]) -> Iterable[str]:
    taken = {name.casefold() for name in names}  # a number must not make a name that somebody else has
    seen: set[str] = set()
    for name in names:
        unique, number = name, 1
        while unique.casefold() in seen or (number > 1 and unique.casefold() in taken):
            number += 1
            unique = f"{name}-{number}"
        seen.add(unique.casefold())
        yield unique
