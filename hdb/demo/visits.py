"""Who is on the page, what is theirs, and that nothing of it stays behind."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hdb.demo.portraits import Made

CACHE = "GRADIO_TEMP_DIR"  # where Gradio keeps uploads, and copies of what it shows


@dataclass
class Visit:
    """What one visitor has: a photo, the person made of it, files that they may take along.

    `key` is in the name of every file that is theirs, and in those of Gradio's copies.
    """

    photo: Float[Tensor, "3 r r"] | None = None
    example: str | None = None
    made: Made | None = None
    uploads: list[Path] = field(default_factory=list)
    key: str = field(default_factory=lambda: secrets.token_hex(4))


class Visits:
    """All of them, by the name that Gradio has for a visit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, dict[str, Visit]()

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator["Visits"]:
        """A place that is gone after the `with` block, and that Gradio keeps everything in meanwhile."""
        earlier = os.environ.get(CACHE)
        with tempfile.TemporaryDirectory(prefix="hdb-", ignore_cleanup_errors=True) as folder:
            os.environ[CACHE] = folder
            try:
                yield cls(Path(folder))
            finally:
                os.environ.pop(CACHE)
                os.environ |= {CACHE: earlier} if earlier else {}

    def of(self, session: str) -> Visit:
        return self.known.setdefault(session, Visit())

    def file(self, visit: Visit, name: str) -> Path:
        """Where a file of theirs goes: `person.png` is person-<key>.png."""
        path = Path(name)
        return self.folder / f"{path.stem}-{visit.key}{path.suffix}"

    def leave(self, session: str) -> None:
        """Forgets a visitor, and removes every file of theirs."""
        if (visit := self.known.pop(session, None)) is None:
            return
        theirs = [path for path in self.folder.rglob(f"*{visit.key}*") if path.is_file()]
        for path in [*theirs, *visit.uploads]:
            path.unlink(missing_ok=True)
