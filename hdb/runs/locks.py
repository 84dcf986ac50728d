"""Who works in a place: a lock that dies with its process, and a place of its own for each run of a W&B agent."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # some network file systems


@contextmanager
def locked(place: str | Path) -> Iterator[None]:
    """Only one process is within the `with` block of a file or folder, which need not be there.

    The lock is the operating system's, on a hidden file beside the place: renaming the place does not carry it off, and
    it is gone with its process, however that ends.

    Raises:
        ValueError: another process is there.
    """
    lock = lock_of(place)
    made = [parent for parent in lock.parents if not parent.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 20).decode(errors="replace").strip()
            os.close(file)
            who = f" (process {owner})" if owner else ""
            raise ValueError(f"another run works in {place}{who}: wait for its end, or give another output") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{lock.parent} knows no locks: see to it that no second run writes to {place}")
        if _is_at(file, lock):
            break
        os.close(file)  # who had it has removed it in the meantime
    try:
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)
        with suppress(OSError):  # nothing was written: no folder is left
            for folder in made:
                folder.rmdir()


def lock_of(place: str | Path) -> Path:
    """The file that a place is locked by."""
    place = Path(place).resolve()
    name = place.name if len(os.fsencode(place.name)) < 200 else hashlib.sha256(os.fsencode(place.name)).hexdigest()
    return place.with_name(f".{name}.lock")


def somebody_within(folder: Path) -> Path | None:
    """The lock of a run that is going on below a folder, if there is one."""
    for lock in folder.rglob(".*.lock"):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock
            except OSError:
                continue
    return None


def own_place(output: str | Path, *, is_file: bool = False) -> Path:
    """The output, or one of this run's own where a W&B agent starts many runs with the same words.

    A folder `outputs/pretrain` becomes `outputs/pretrain-<sweep>/<run>`, a file `me.safetensors` `<sweep>/<run>/me...`.
    """
    output, sweep, run = Path(output), os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not sweep or not run or run in output.parts:
        return output
    if is_file:
        return output.parent / sweep / run / output.name
    return output.resolve().with_name(f"{output.resolve().name}-{sweep}") / run


def _is_at(file: int, path: Path) -> bool:
    try:
        here, there = os.fstat(file), path.stat()
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
