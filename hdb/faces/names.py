"""File names with any bytes in them, written out in messages, in JSON and as names of other files."""

import os
import re
from collections.abc import Sequence

MAX_LETTERS = 100  # of a file name that gets suffixes
MAX_BYTES = 200  # of the same; file systems take 255


def to_text(name: str) -> str:
    r"""Replaces the bytes of a file's name that are no UTF-8 by `\xe9`, so that it can be written anywhere.

    >>> to_text("caf\udce9")
    'caf\\xe9'
    """
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair of UTF-16, which only a JSON file can hold
        return name.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    r"""A name within a message; line breaks and marks that turn the direction of reading are escaped, too.

    >>> printable("two\nlines.jpg")
    'two\\nlines.jpg'
    """
    text = to_text(name)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def unique_file_names(names: Sequence[str]) -> list[str]:
    """A file name for each of some distinct names, unique also where upper and lower case are one.

    >>> unique_file_names(["me (1).jpg", "me [1].jpg", "ann/0.png"])
    ['me__1_.jpg', 'me__1_.jpg-2', 'ann_0.png']
    """
    candidates = []
    for name in names:
        plain = re.sub(r"[^\w.-]", "_", to_text(name)).lstrip(".")[:MAX_LETTERS]
        candidates.append(plain.encode()[:MAX_BYTES].decode(errors="ignore") or "_")
    reserved = {name.casefold() for name in candidates}  # a number must not make the name of somebody else
    used: set[str] = set()
    unique_names = []
    for name in candidates:
        unique_name, number = name, 1
        while unique_name.casefold() in used or (number > 1 and unique_name.casefold() in reserved):
            number += 1
            unique_name = f"{name}-{number}"
        used.add(unique_name.casefold())
        unique_names.append(unique_name)
    return unique_names
