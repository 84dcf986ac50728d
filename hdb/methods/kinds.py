"""Reads the files of people whatever method made them, by the kind in their header."""

from collections.abc import Sequence
from pathlib import Path

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject
from hdb.methods.dreambooth import PersonalModels
from hdb.methods.protocol import StoredPersonalization
from hdb.methods.stored import THETA, read_kind
from hdb.methods.textual_inversion import PersonalWords
from hdb.methods.theta import PersonalTheta

KINDS = {reader.kind: reader for reader in (PersonalTheta, PersonalWords, PersonalModels)}


def read_people(
    diffusion: StableDiffusion,
    paths: Sequence[str | Path],
    *,
    scale: float | None = None,
    text_encoder_scale: float | None = None,
    weights: Sequence[float] | None = None,
) -> StoredPersonalization:
    """Reads people for a base, from files of one kind.

    Args:
        scale: Strength of everyone; None is that stored in each file.
        text_encoder_scale: Strength in the text encoder; None is `scale`.
        weights: One per file, to mix all of them into one person; None keeps them apart.

    Raises:
        ValueError: A file is missing, damaged, of an unknown kind or for another base; the files are of several kinds,
            which cannot be scaled or mixed so; there are not as many weights as files.
    """
    files = [Path(path) for path in paths]
    kind = read_common_kind(files)
    if kind != THETA:
        if text_encoder_scale is not None or weights is not None:
            raise ValueError(
                f"{files[0]} holds a {kind}: mix and text_encoder_scale are for residuals, expected neither"
            )
        return KINDS[kind].from_files(diffusion, files, scale=scale)
    people = PersonalTheta.from_files(diffusion, files, scale=scale, text_encoder_scale=text_encoder_scale)
    return people if weights is None else people.mix(weights)


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
