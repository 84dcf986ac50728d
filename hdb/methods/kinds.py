"""People from files of any kind, told by their header: the files of every method load again in one place."""

from collections.abc import Sequence
from pathlib import Path

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject
from hdb.methods.dreambooth import PersonalModels
from hdb.methods.protocol import StoredPersonalization
from hdb.methods.stored import THETA, kind_of
from hdb.methods.textual_inversion import PersonalWords
from hdb.methods.theta import PersonalTheta

KINDS = {of.kind: of for of in (PersonalTheta, PersonalWords, PersonalModels)}


def read_people(
    diffusion: StableDiffusion,
    paths: Sequence[str | Path],
    *,
    scale: float | None = None,
    text_encoder_scale: float | None = None,
    weights: Sequence[float] | None = None,
) -> StoredPersonalization:
    """The people of some files of one kind, for this base.

    Args:
        scale: strength for everybody; None is that of each file.
        text_encoder_scale: that of the text encoder's layers, if it differs.
        weights: one for each: they become one person; None leaves each alone.

    Raises:
        ValueError: a file is missing, damaged, of an unknown kind or for another base; files of several kinds; a
            strength or a mixture that their kind does not have; another number of weights than people.
    """
    files = [Path(path) for path in paths]
    if (kind := one_kind(files)) != THETA:
        if text_encoder_scale is not None or weights is not None:
            raise ValueError(
                f"{files[0]} holds a {kind}: mix and text_encoder_scale are for residuals, expected neither"
            )
        return KINDS[kind].read(diffusion, files, scale=scale)
    people = PersonalTheta.read(diffusion, files, scale=scale, text_encoder_scale=text_encoder_scale)
    return people if weights is None else people.mix(weights)


def check_readable(paths: Sequence[str | Path]) -> None:
    """Raises ValueError if files cannot be read, whatever their base: before one of gigabytes is read."""
    files = [Path(path) for path in paths]
    if one_kind(files) == THETA:
        for path in files:
            Subject.load(path)


def one_kind(files: Sequence[Path]) -> str:
    """What all of some files hold.

    Raises:
        ValueError: a file is missing, damaged or of an unknown kind; files of several kinds.
    """
    kinds = {kind_of(path): path for path in files}
    if unknown := next((kind for kind in kinds if kind not in KINDS), None):
        raise ValueError(f"{kinds[unknown]} holds a {unknown!r}, expected one of {', '.join(KINDS)}")
    if len(kinds) > 1:
        given = " and ".join(f"a {kind} ({path})" for kind, path in kinds.items())
        raise ValueError(f"people of one call are of one kind, given {given}: expected one call for each")
    return next(iter(kinds))
