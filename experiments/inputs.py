"""Whether what a command reads is there: checked before torch is imported, which takes seconds."""

from collections.abc import Iterable
from pathlib import Path

from hdb.diffusion.options import BaseOptions, check_base_path
from hdb.faces.names import printable
from hdb.faces.photo_files import refuse_missing
from hdb.files import read_safetensors_header
from hdb.hypernet.network_files import check_hypernet, resolve_checkpoint


def check_photos(paths: Iterable[str]) -> None:
    """Raises FaceError if there is no file, or none that can be read whole."""
    for path in paths:
        refuse_missing(Path(path), printable(path))


def check_people(paths: Iterable[str]) -> None:
    """Raises ValueError if a file of a person is missing or damaged."""
    for path in paths:
        if not path:
            raise ValueError("subject is empty, expected the file of a person")
        read_safetensors_header(path)


def check_networks(*, base: BaseOptions | None = None, hypernet: str | None = None) -> None:
    """Raises ValueError if a base or a hypernetwork that the words name is not there; None is not checked."""
    if base is not None:
        check_base_path(base.path)
    if hypernet not in (None, "best"):
        check_hypernet(resolve_checkpoint(hypernet))
