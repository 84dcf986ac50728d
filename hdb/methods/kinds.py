"""People from files of any kind, told by their header: the files of every method load again in one place."""

from collections.abc import Sequence
from pathlib import Path

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.methods.dreambooth import PersonalModels
from hdb.methods.protocol import StoredPersonalization
from hdb.methods.stored import kind_of
from hdb.methods.textual_inversion import PersonalWords
from hdb.methods.theta import PersonalTheta

KINDS = {of.kind: of for of in (PersonalTheta, PersonalWords, PersonalModels)}


def read_people(
    diffusion: StableDiffusion, paths: Sequence[str | Path], *, scale: float | None = None
) -> StoredPersonalization:
    """The people of some files of one kind, for this base.

    Args:
        scale: strength for everybody; None is that of each file.

    Raises:
        ValueError: a file is missing, damaged, of an unknown kind or for another base; files of several kinds.
    """
    files = [Path(path) for path in paths]
    kinds = {kind_of(path): path for path in files}
    if unknown := next((kind for kind in kinds if kind not in KINDS), None):
        raise ValueError(f"{kinds[unknown]} holds a {unknown!r}, expected one of {', '.join(KINDS)}")
    if len(kinds) > 1:
        given = " and ".join(f"a {kind} ({path})" for kind, path in kinds.items())
        raise ValueError(f"people of one call are of one kind, given {given}: expected one call for each")
    return KINDS[next(iter(kinds))].read(diffusion, files, scale=scale)
