"""The visitors of the page and their files, of which nothing stays behind."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hdb.demo.photos import Photo
from hdb.demo.worker import Job, JobCancelled
from hdb.lidb.file import Subject

GRADIO_CACHE = "GRADIO_TEMP_DIR"  # environment variable: where Gradio keeps uploads and looks for what it shows
GRADIO_HISTORY = "GRADIO_RUN_HISTORY"  # another: whether browsers keep the pictures of earlier runs
LEFT_SECONDS = 600.0  # for which a closed page is remembered
VISIT_PREFIX = "visit-"
UPLOAD_SECONDS = 60.0  # an upload that nobody reads was left by its visitor; Gradio does not say whose it was

Captioned = tuple[Path, str]  # a picture and its caption


@dataclass(frozen=True)
class Results:
    """The files of one run.

    Args:
        pictures: of the person.
        comparison: the same without finetuning, without the person, and the truth of an example face.
        sheet: all of them on one picture.
        remarks: sentences about the prompts.
    """

    pictures: list[Captioned]
    comparison: list[Captioned]
    sheet: Path
    remarks: list[str]


@dataclass(frozen=True)
class Person:
    """A subject and what belongs to it.

    Args:
        prediction: the subject before finetuning, if there is one.
        verdict: the gate's sentence.
        subject_file, lora_file: the subject as files.
    """

    subject: Subject
    prediction: Subject | None
    verdict: str
    subject_file: Path
    lora_file: Path


@dataclass(frozen=True)
class VisitPhoto:
    """A photo, and the pictures of it that the page shows."""

    photo: Photo
    marked_file: Path | None
    crop_file: Path | None


@dataclass
class Visit:
    """What one visitor has.

    Args:
        folder: of all files of this visit.
        photos: of one person.
        selected: index of the photo in which a face can be chosen.
        example: name of the example face that the photo is of.
        remarks: sentences about what was uploaded.
        person: made of the photos, or opened.
        results: of the latest run that has ended.
        job: the latest run.
        settings: what the visitor chose, by the name of the control.
        sessions: Gradio's names for the open pages of this visit.
        left_at: when the last of them was closed, by the monotonic clock.
        generation: counts how often everything was cleared.
    """

    folder: Path
    photos: list[VisitPhoto] = field(default_factory=list)
    selected: int = 0
    example: str | None = None
    remarks: list[str] = field(default_factory=list)
    person: Person | None = None
    results: Results | None = None
    job: Job | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)
    left_at: float = 0.0
    generation: int = 0
    has_ended: bool = False
    lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def usable_photos(self) -> list[Photo]:
        """The photos from which a face can be learned."""
        return [entry.photo for entry in self.photos if entry.photo.crop is not None]

    def save(self, name: str, write: Callable[[Path], object]) -> Path:
        """Writes a file under an address of its own: browsers keep what they have seen under an earlier one.

        Raises:
            JobCancelled: the visit has ended.
        """
        with self.lock:
            if self.has_ended:
                raise JobCancelled
            path = self.folder / secrets.token_hex(8) / name
            path.parent.mkdir(parents=True)
            write(path)
            return path

    def show_results(self, job: Job, person: Person, results: Results) -> None:
        """Replaces the pictures of the previous run, and removes their files.

        Raises:
            JobCancelled: nobody waits for them any more.
        """
        with self.lock:
            job.report(1.0, "done")
            self._remove_results()
            self.person = person
            self.results = results

    def clear_person(self) -> None:
        """Forgets the person that was made of the photos, the pictures, and the run that makes them."""
        with self.lock:
            if self.job is not None:
                self.job.cancel()
                self.job = None
            self._remove_results()
            if self.person is not None:
                _remove_with_folder([self.person.subject_file, self.person.lora_file])
                self.person = None

    def clear(self) -> int:
        """Forgets everything but the settings, and removes all files. Returns the new generation."""
        with self.lock:
            self.clear_person()
            self.photos = []
            self.selected = 0
            self.example = None
            self.remarks = []
            shutil.rmtree(self.folder, ignore_errors=True)
            self.generation += 1
            return self.generation

    def end(self) -> None:
        """Removes all files and lets no other be written."""
        with self.lock:
            self.has_ended = True
            self.clear()

    def _remove_results(self) -> None:
        if self.results is not None:
            pictures = [path for path, _ in (*self.results.pictures, *self.results.comparison)]
            _remove_with_folder([*pictures, self.results.sheet])
            self.results = None


class Visits:
    """All visits, and the folder of their files.

    The browser keeps the key of its visit for as long as its tab is open, so a page that is loaded again finds its
    visit. Gradio says when a page is closed, but not whether it is loaded again: a visit ends `keep_seconds` later.
    """

    def __init__(self, folder: Path, *, keep_seconds: float) -> None:
        self.folder = folder
        self.keep_seconds = keep_seconds
        self._visits: dict[str, Visit] = {}
        self._keys: dict[str, str] = {}  # of sessions
        self._left: dict[str, float] = {}  # when sessions were closed; actions of theirs may come later
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def opened(cls, *, keep_seconds: float = 15.0) -> Iterator[Visits]:
        """A temporary folder for all files, Gradio's among them. It is removed after the `with` block.

        Gradio must be imported within the block.
        """
        with tempfile.TemporaryDirectory(prefix="hdb-", ignore_cleanup_errors=True) as folder:
            visits = cls(Path(folder), keep_seconds=keep_seconds)
            stopped = threading.Event()

            def clean_up() -> None:
                while not stopped.wait(min(1.0, keep_seconds)):
                    try:
                        visits.clean_up()
                    except OSError as error:  # tried again a second later: files must not stay for want of a thread
                        warnings.warn(f"files of visitors are not removed yet: {error}", stacklevel=1)

            with _environment({GRADIO_CACHE: folder, GRADIO_HISTORY: "False"}):
                cleaner = threading.Thread(target=clean_up, name="visits", daemon=True)
                cleaner.start()
                try:
                    yield visits
                finally:
                    stopped.set()
                    cleaner.join()
                    visits.end_all()

    def enter(self, session: str, key: str) -> Visit:
        """The visit that a page belongs to: the one of its key, or a new one."""
        with self._lock:
            earlier = self._visits.pop(self._keys.get(session, ""), None)  # of events before the page knew its key
            visit = self._visits.setdefault(key, earlier or self._new_visit())
            if earlier is not None and earlier is not visit:
                earlier.end()
            self._keys[session] = key
            self._attach(visit, session)
            return visit

    def get(self, session: str) -> Visit:
        """The visit of a session."""
        with self._lock:
            visit = self._find(session)
            self._attach(visit, session)
            return visit

    def leave(self, session: str) -> None:
        """A page was closed: its visit ends soon, unless it has another page."""
        with self._lock:
            self._left[session] = time.monotonic()
            visit = self._visits.get(self._keys.get(session, ""))
            if visit is not None:
                visit.sessions.discard(session)
                visit.left_at = time.monotonic()

    def take_upload(self, path: str) -> bytes:
        """Reads a file that Gradio has stored, and removes it.

        Raises:
            ValueError: there is no such upload.
        """
        upload = Path(path).resolve()
        parts = upload.relative_to(self.folder.resolve()).parts if upload.is_relative_to(self.folder.resolve()) else ()
        if not parts or parts[0].startswith(VISIT_PREFIX) or not upload.is_file():
            raise ValueError(f"{upload.name} is not there any more: expected it to be uploaded again")
        content = upload.read_bytes()
        self._remove_upload(upload)
        return content

    def clean_up(self) -> None:
        """Ends the visits that were left, and removes uploads that nobody reads."""
        now = time.monotonic()
        with self._lock:
            ended = [
                key
                for key, visit in self._visits.items()
                if not visit.sessions and now - visit.left_at >= self.keep_seconds
            ]
            visits = [self._visits.pop(key) for key in ended]
            self._keys = {session: key for session, key in self._keys.items() if key not in ended}
            self._left = {session: left_at for session, left_at in self._left.items() if now - left_at < LEFT_SECONDS}
            upload_seconds = UPLOAD_SECONDS if self._visits else self.keep_seconds
        for visit in visits:
            visit.end()
        oldest = time.time() - upload_seconds
        for path in self._uploads():
            with suppress(FileNotFoundError):  # read meanwhile
                if path.stat().st_mtime < oldest:
                    self._remove_upload(path)

    def end_all(self) -> None:
        """Ends all visits."""
        with self._lock:
            visits = list(self._visits.values())
            self._visits.clear()
            self._keys.clear()
        for visit in visits:
            visit.end()

    def _attach(self, visit: Visit, session: str) -> None:
        """An open page keeps its visit alive. A last action of a closed one does not, but keeps it a little longer."""
        if session in self._left:
            visit.left_at = time.monotonic()
        else:
            visit.sessions.add(session)

    def _find(self, session: str) -> Visit:
        key = self._keys.setdefault(session, secrets.token_hex(16))
        if key not in self._visits:
            self._visits[key] = self._new_visit()
        return self._visits[key]

    def _uploads(self) -> list[Path]:
        """The files that Gradio keeps. `os.walk` passes over folders that are removed meanwhile."""
        uploads = []
        for folder, folder_names, file_names in os.walk(self.folder):
            folder_names[:] = [name for name in folder_names if not name.startswith(VISIT_PREFIX)]
            uploads += [Path(folder, name) for name in file_names]
        return uploads

    def _remove_upload(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent != self.folder:
            with suppress(OSError):  # it holds other files, or is gone
                path.parent.rmdir()

    def _new_visit(self) -> Visit:
        return Visit(self.folder / f"{VISIT_PREFIX}{secrets.token_hex(16)}")


def _remove_with_folder(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path.parent, ignore_errors=True)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables within a `with` block."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
