"""Locks on files and folders, so that two runs never write to the same place.

The package filelock does not do here: its lock files stay, it does not say which process holds a native lock, it stops
on file systems that report ENOLCK or EOPNOTSUPP, and it cannot ask for the locks below a folder.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What network file systems without locks answer.
UNSUPPORTED_ERRNOS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Holds the lock on a file or folder, which need not exist, within the `with` block.

    The lock is the operating system's, on a hidden file beside the path. Renaming the path leaves the lock in place,
    and the lock ends with its process, however that ends.

    Raises:
        ValueError: another process holds it.
    """
    lock_file = lock_path(path)
    new_folders = [folder for folder in lock_file.parents if not folder.exists()]
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(lock_file, path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        lock_file.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # not empty: the run wrote something
            for folder in new_folders:
                folder.rmdir()


def lock_path(path: str | Path) -> Path:
    """The hidden file that the lock on a path is taken on."""
    path = Path(path).resolve()
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".{name}.lock")


def find_held_lock(folder: Path) -> Path | None:
    """The lock file of a run that is going on below a folder, or None."""
    for lock_file in folder.rglob(".*.lock"):
        with lock_file.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock_file
            except OSError:
                continue
    return None


def _acquire(lock_file: Path, path: str | Path) -> int:
    """The descriptor of the locked file."""
    while True:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            process = f" (process {holder})" if holder else ""
            raise ValueError(
                f"another run works in {path}{process}: wait for its end, or give another output"
            ) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED_ERRNOS:
                raise
            print(f"{lock_file.parent} has no file locks: make sure that no second run writes to {path}")
        if _is_open_file(descriptor, lock_file):
            return descriptor
        os.close(descriptor)  # its last holder removed the file between open and flock


def _is_open_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
