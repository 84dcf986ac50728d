"""Finds the pictures in a folder: under any name, through links, and without the files of operating systems."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hdb.faces.formats import SUFFIXES, is_picture_data
from hdb.faces.names import printable

# Folders of operating systems and programs, in lower case. Names that begin with a dot need no mention: .thumbnails,
# .Trash-1000, .ipynb_checkpoints, .@__thumb, .picasaoriginals, ._x.jpg and .DS_Store.
SYSTEM_FOLDERS = {
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
    *("__macosx", "network trash folder", "temporary items", "desktop folder db"),  # macOS
    *("trash", "lost+found", "lost.dir"),  # desktops, Android
    *("@eadir", "@tmp", "@recycle", "@recycle.bin", "@recently-snapshot", "@sharebin", "@sharesnap", "@snapshot"),
    *("@snapshots", "@trash", "#recycle", "#snapshot", "#trash"),  # Synology, QNAP
    *("__pycache__", "_vti_cnf", "thumb", "thumbs", "_thumbs", "_thumb", "_thumbnails", "ipod photo cache"),
}
# Previews of Lightroom and others, and libraries that keep previews and deleted pictures in folders.
SYSTEM_ENDINGS = (".lrdata", ".lrcat-data", ".cocatalogdb", ".photoslibrary", ".photolibrary", ".aplibrary")
SYSTEM_FILES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info"),
}
HIDDEN = "hidden or a system's own"  # the one reason that needs no warning
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".tmp", ".filepart")


class UnusedFile(NamedTuple):
    """Something in a folder that is not used, and why."""

    path: str  # printable; a folder ends in "/"
    reason: str


class FolderListing(NamedTuple):
    """All picture files below a folder, sorted, and everything else."""

    pictures: list[Path]
    unused: list[UnusedFile]


def list_pictures(root: str | Path) -> FolderListing:
    """Lists a folder and what its links lead to; the target of a link is listed once.

    A picture below `root` that a link leads to as well is listed under its real name.
    """
    walk = _Walk(Path(root))
    pictures = []
    for path in walk.files():
        reason = reason_to_skip(path)
        if reason is None:
            pictures.append(path)
        else:
            walk.skip(path, reason)
    return FolderListing(sorted(pictures), sorted(walk.unused))


class _Walk:
    """Goes through the regular files below a folder, each once, and follows links last."""

    def __init__(self, root: Path):
        self.root = root
        self.unused: list[UnusedFile] = []
        self.visited: set[tuple[int, int]] = set()
        self.links: list[Path] = []
        real_root = Path(os.path.realpath(root))
        self.parents = {_file_id(os.stat(folder)) for folder in (real_root, *real_root.parents)}

    def files(self) -> Iterator[Path]:
        yield from self.list_folder(self.root)
        while self.links:
            path = self.links.pop(0)
            try:
                status = os.stat(path)
            except OSError:  # leads nowhere, or in a circle
                self.skip(path, "a link that leads nowhere")
                continue
            if _file_id(status) in self.parents:
                self.skip(path, "a link to a folder that it lies in")
            else:
                yield from self.visit(path, status)

    def list_folder(self, folder: Path) -> Iterator[Path]:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self.skip(folder, f"a folder that cannot be read: {error.strerror}")
            return
        for name in names:
            path = folder / name
            try:
                status = os.lstat(path)
            except OSError as error:
                self.skip(path, f"cannot be looked at: {error.strerror}")
                continue
            if stat.S_ISLNK(status.st_mode) and not is_system_name(name, is_folder=path.is_dir()):
                self.links.append(path)
            else:
                yield from self.visit(path, status)

    def visit(self, path: Path, status: os.stat_result) -> Iterator[Path]:
        is_folder = stat.S_ISDIR(status.st_mode)
        if is_system_name(path.name, is_folder=is_folder):
            self.skip(path, HIDDEN, is_folder=is_folder)
        elif _file_id(status) in self.visited and (is_folder or path.is_symlink()):
            self.skip(path, "a link to what is listed already")
        elif is_folder:
            self.visited.add(_file_id(status))
            yield from self.list_folder(path)
        elif stat.S_ISREG(status.st_mode):
            self.visited.add(_file_id(status))
            yield path
        else:
            self.skip(path, "no regular file")

    def skip(self, path: Path, reason: str, *, is_folder: bool = False) -> None:
        self.unused.append(UnusedFile(printable(str(path)) + "/" * is_folder, reason))


def _file_id(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_system_name(name: str, *, is_folder: bool) -> bool:
    """Whether a name is that of a hidden file or folder, or of one that an operating system makes."""
    lower = name.lower()
    if name.startswith((".", "~$")):
        return True
    if not is_folder:
        return lower in SYSTEM_FILES or lower.endswith(":zone.identifier")
    return lower in SYSTEM_FOLDERS or lower.startswith("thumbnail") or lower.endswith(SYSTEM_ENDINGS)


def reason_to_skip(path: Path) -> str | None:
    """Why a file is no picture; None if it is one by its suffix, or by its first bytes whatever its suffix."""
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
