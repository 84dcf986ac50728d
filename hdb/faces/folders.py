"""What lies in a folder as people have them: pictures under any name, a system's own files, links, and the rest."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hdb.faces.formats import SUFFIXES, is_picture_data
from hdb.faces.names import in_sentence

# Names in lower case; all that begins with a dot is hidden anyway: .thumbnails, .Trash-1000, .ipynb_checkpoints,
# .@__thumb, ._x.jpg, .picasaoriginals, .DS_Store.
SYSTEM_FOLDERS = {
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
    *("__macosx", "network trash folder", "temporary items", "desktop folder db"),  # macOS
    *("trash", "lost+found", "lost.dir"),  # desktops, Android
    *("@eadir", "@tmp", "@recycle", "@recycle.bin", "@recently-snapshot", "@sharebin", "@sharesnap", "@snapshot"),
    *("@snapshots", "@trash", "#recycle", "#snapshot", "#trash"),  # Synology, QNAP
    *("__pycache__", "_vti_cnf", "thumb", "thumbs", "_thumbs", "_thumb", "_thumbnails", "ipod photo cache"),
}
# Previews of Lightroom and others; libraries that keep pictures, previews and what was deleted in folders of their own.
SYSTEM_ENDINGS = (".lrdata", ".lrcat-data", ".cocatalogdb", ".photoslibrary", ".photolibrary", ".aplibrary")
SYSTEM_FILES = {
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "icon\r",
    "picasa.ini",
    "zbthumbnail.info",
}
HIDDEN = "hidden or a system's own"  # the one reason for which nothing needs to be said
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".tmp", ".filepart")


class Other(NamedTuple):
    """Something in a folder that is not used, and why."""

    path: str  # as a sentence takes it; a folder ends in "/"
    reason: str


class Listing(NamedTuple):
    """All picture files below a folder, sorted, and all else."""

    pictures: list[Path]
    others: list[Other]


def list_pictures(root: str | Path) -> Listing:
    """Goes through a folder and what it links to.

    What a link leads to is taken once, and under its own name where it lies below `root` itself.
    """
    walk = _Walk(Path(root))
    pictures, others = [], walk.others
    for path in walk.files():
        reason = reason_against(path)
        if reason is None:
            pictures.append(path)
        else:
            others.append(Other(in_sentence(str(path)), reason))
    return Listing(sorted(pictures), sorted(others))


class _Walk:
    """Regular files below a folder, each once; real ones before those behind links."""

    def __init__(self, root: Path):
        self.root, self.others = root, list[Other]()
        self.seen: set[tuple[int, int]] = set()
        self.links: list[Path] = []
        real = Path(os.path.realpath(root))
        self.above = {_identity(os.stat(folder)) for folder in (real, *real.parents)}

    def files(self) -> Iterator[Path]:
        yield from self.below(self.root)
        while self.links:
            path, self.links = self.links[0], self.links[1:]
            try:
                there = os.stat(path)
            except OSError:  # leads nowhere, or in a circle
                self.note(path, "a link that leads nowhere")
                continue
            if _identity(there) in self.above:
                self.note(path, "a link to a folder that it lies in")
            else:
                yield from self.entry(path, there)

    def below(self, folder: Path) -> Iterator[Path]:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self.note(folder, f"a folder that cannot be read: {error.strerror}")
            return
        for name in names:
            path = folder / name
            try:
                there = os.lstat(path)
            except OSError as error:
                self.note(path, f"cannot be looked at: {error.strerror}")
                continue
            if stat.S_ISLNK(there.st_mode) and not is_system(name, folder=path.is_dir()):
                self.links.append(path)
            else:
                yield from self.entry(path, there)

    def entry(self, path: Path, there: os.stat_result) -> Iterator[Path]:
        is_folder = stat.S_ISDIR(there.st_mode)
        if is_system(path.name, folder=is_folder):
            self.others.append(Other(in_sentence(str(path)) + "/" * is_folder, HIDDEN))
        elif _identity(there) in self.seen and (is_folder or path.is_symlink()):
            self.note(path, "a link to what is listed already")
        elif is_folder:
            self.seen.add(_identity(there))
            yield from self.below(path)
        elif stat.S_ISREG(there.st_mode):
            self.seen.add(_identity(there))
            yield path
        else:
            self.note(path, "no regular file")

    def note(self, path: Path, reason: str) -> None:
        self.others.append(Other(in_sentence(str(path)), reason))


def _identity(there: os.stat_result) -> tuple[int, int]:
    return there.st_dev, there.st_ino


def is_system(name: str, *, folder: bool) -> bool:
    """Whether a name is that of a hidden or a system's own file or folder, on any of the common systems."""
    lower = name.lower()
    if name.startswith((".", "~$")):
        return True
    if not folder:
        return lower in SYSTEM_FILES or lower.endswith(":zone.identifier")
    return lower in SYSTEM_FOLDERS or lower.startswith("thumbnail") or lower.endswith(SYSTEM_ENDINGS)


def reason_against(path: Path) -> str | None:
    """Why a file is no picture; None if it is one by its name, or by its first bytes whatever it is called."""
    suffix = path.suffix.lower()
    if suffix in UNFINISHED:
        return "an unfinished download"
    if suffix == ".thm":
        return "a camera's thumbnail"
    if suffix in SUFFIXES:
        return None
    try:
        with path.open("rb") as file:
            return None if is_picture_data(file.read(32)) else "no picture"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
