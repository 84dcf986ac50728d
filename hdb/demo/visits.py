"""The visitors of the page and their files, of which nothing stays behind."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hdb.demo.portraits import Portrait

GRADIO_CACHE = "GRADIO_TEMP_DIR"  # environment variable: where Gradio keeps uploads, and copies of what it shows


@dataclass
class Visit:
    """What one visitor has.

    Args:
        photo: the face crop.
        example: name of the example face that the photo is of.
        portrait: the person made of the photo.
        uploads: files as Gradio stored them.
        key: in the name of every file of this visitor, and in those of Gradio's copies.
    """

    photo: Float[Tensor, "3 r r"] | None = None
    example: str | None = None
    portrait: Portrait | None = None
    uploads: list[Path] = field(default_factory=list)
    key: str = field(default_factory=lambda: secrets.token_hex(4))


class Visits:
    """All visits by Gradio's session hash, and the folder of their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._visits: dict[str, Visit] = {}

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator["Visits"]:
        """A temporary folder for all files, Gradio's among them. It is removed after the `with` block."""
        previous_cache = os.environ.get(GRADIO_CACHE)
        with tempfile.TemporaryDirectory(prefix="hdb-", ignore_cleanup_errors=True) as folder:
            os.environ[GRADIO_CACHE] = folder
            try:
                yield cls(Path(folder))
            finally:
                os.environ.pop(GRADIO_CACHE)
                if previous_cache is not None:
                    os.environ[GRADIO_CACHE] = previous_cache

    def get(self, session_hash: str) -> Visit:
        """The visit of a session, a new one at the first call."""
        return self._visits.setdefault(session_hash, Visit())

    def file(self, visit: Visit, name: str) -> Path:
        """Where a file of a visitor goes: `person.png` is person-<key>.png."""
        path = Path(name)
        return self.folder / f"{path.stem}-{visit.key}{path.suffix}"

    def leave(self, session_hash: str) -> None:
        """Ends a visit and removes all its files."""
        visit = self._visits.pop(session_hash, None)
        if visit is None:
            return
        files = [path for path in self.folder.rglob(f"*{visit.key}*") if path.is_file()]
        for path in [*files, *visit.uploads]:
            path.unlink(missing_ok=True)
