"""The kinds of people's files, told apart by their header."""

from collections.abc import Sequence
from pathlib import Path

from hdb.lidb.file import Subject
from hdb.methods.dreambooth import PersonalModels
from hdb.methods.stored import THETA, read_kind
from hdb.methods.textual_inversion import PersonalWords

READERS = {reader.kind: reader for reader in (PersonalWords, PersonalModels)}  # thetas are read by `Subject.load`
KINDS = (THETA, *READERS)


def check_readable(paths: Sequence[str | Path]) -> None:
    """Raises ValueError if files cannot be read for any base. Called before a base of gigabytes is loaded."""
    files = [Path(path) for path in paths]
    if read_common_kind(files) == THETA:
        for path in files:
            Subject.load(path)


def read_common_kind(files: Sequence[Path]) -> str:
    """The kind that all files have.

    Raises:
        ValueError: A file is missing, damaged or of an unknown kind, or the files are of several kinds.
    """
    files_by_kind = {read_kind(path): path for path in files}
    for kind, path in files_by_kind.items():
        if kind not in KINDS:
            raise ValueError(f"{path} holds a {kind!r}, expected one of {', '.join(KINDS)}")
    if len(files_by_kind) > 1:
        given = " and ".join(f"a {kind} ({path})" for kind, path in files_by_kind.items())
        raise ValueError(f"people of one call are of one kind, given {given}: expected one call for each")
    return next(iter(files_by_kind))
