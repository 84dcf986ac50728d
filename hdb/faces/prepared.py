"""Photos cropped once and kept as tar shards: in parallel, each whole or not there, so that a call can be resumed."""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import tarfile
import tempfile
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image

from hdb.faces.crop import FaceCropper
from hdb.faces.photos import Photos
from hdb.faces.picture import FaceError, Picture, crashed, name_of
from hdb.files import atomic_write

ABOUT = "__about__"  # readers of webdataset pass over files of such a name


class About(TypedDict):
    """What a shard says of itself: who is in it with how many pictures, what was skipped, what was remarked."""

    people: dict[str, int]
    skipped: list[dict[str, str]]  # picture, reason (one of REASONS), message
    notes: list[dict[str, str]]  # picture, message: several faces, say
    crops: list[dict[str, str]]  # picture, person, file (in the shard), digest (of the file)


def prepare_shard(
    path: Path,
    people: Photos,
    *,
    cropper: FaceCropper,
    resolution: int,
    stopped: Callable[[], bool] = lambda: False,
    lost: Collection[int] = (),
    begun: Callable[[int], object] = lambda number: None,
) -> About | None:
    """Crops the pictures of some people and writes them as one tar: a sample per person, read by ShardFaces.

    A sample is `<key>.json` {"identity": name} and `<key>.0.jpg`, `<key>.1.jpg` and so on. Before all of them stands
    what `read_about` reads. A picture that cannot be used is named there; a person without any is left out.

    Args:
        stopped: asked before each picture; once it says yes nothing is written, and None returned.
        lost: numbers of pictures, counted through the shard, that are not tried: a process died of each.
        begun: told the number of each picture before it is tried.

    Raises:
        OSError: it cannot be written.
    """
    about, files = About(people={}, skipped=[], notes=[], crops=[]), {}
    count = itertools.count()
    for number, (name, pictures) in enumerate(people.items()):
        key, crops = f"{path.stem}-{number:05d}", {}
        for picture in pictures:
            if stopped():
                return None
            begun(tried := next(count))
            if tried in lost:
                message = f"{name_of(picture)} cannot be used: a process died of it, for want of memory perhaps"
                about["skipped"].append({"picture": name_of(picture), "reason": "crashed", "message": message})
            elif crop := crop_to_jpeg(picture, cropper, resolution, about):
                file = f"{key}.{len(crops)}.jpg"
                crops[file] = crop
                row = {"picture": name_of(picture), "person": name, "file": file, "digest": sha256(crop).hexdigest()}
                about["crops"].append(row)
        if crops:
            about["people"][name] = len(crops)
            files[f"{key}.json"] = json.dumps({"identity": name}).encode()  # first, so that no cut separates it
            files |= crops
    write_shard(path, about, files)
    return about


def write_shard(path: Path, about: About, files: Mapping[str, bytes]) -> None:
    """A whole tar or none.

    Raises:
        OSError: it cannot be written: a full disk, say. The error names the file.
    """
    # Not webdataset's TarWriter, which leaves out a file called like ABOUT.
    with naming(path), atomic_write(path) as part, tarfile.open(part, "w") as tar:
        for name, data in ({ABOUT: json.dumps(about).encode()} | dict(files)).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets an OSError say which file could not be written: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from None


def leave_out(path: Path, copies: Mapping[str, str]) -> None:
    """Writes a shard again without some of its files (file -> the message that says why)."""
    about = read_about(path)
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.name != ABOUT}
    for row in about["crops"]:
        if row["file"] in copies:
            del files[row["file"]]
            about["skipped"].append({"picture": row["picture"], "reason": "copy", "message": copies[row["file"]]})
            about["people"][row["person"]] -= 1
            if not about["people"][row["person"]]:
                del about["people"][row["person"]], files[f"{row['file'].partition('.')[0]}.json"]
    about["crops"] = [row for row in about["crops"] if row["file"] not in copies]
    write_shard(path, about, files)


def crop_to_jpeg(picture: Picture, cropper: FaceCropper, resolution: int, about: About) -> bytes | None:
    """The crop of a picture as a file, or None with the reason in `about`."""
    name, file = name_of(picture), BytesIO()
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            crop = cropper.crop(picture, resolution=resolution)
        pixels = (crop * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        # Chroma is kept at full resolution, and the pixels within 1 level on average: they will be a network's target.
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    except FaceError as error:
        about["skipped"].append({"picture": name, "reason": error.reason, "message": str(error)})
        return None
    except Exception as error:  # whatever a photo brings a library to, it is that photo's row and not the end of all
        about["skipped"].append({"picture": name, "reason": "crashed", "message": crashed(picture, error)})
        return None
    about["notes"] += [{"picture": name, "message": said} for said in dict.fromkeys(str(r.message) for r in remarks)]
    return file.getvalue()


def read_about(path: Path) -> About:
    """What a shard says of itself.

    Raises:
        ValueError: it is not one of `prepare_shard`.
    """
    try:
        with tarfile.open(path) as tar:
            return json.load(tar.extractfile(ABOUT))
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no shard that was prepared ({error}); delete it to have it made again") from None


# One detector per process: building it costs more than a picture.
_cropper: FaceCropper | None = None
_stop: Event | None = None


def _start_worker(stop: Event, options: dict[str, Any]) -> None:
    global _cropper, _stop
    torch.set_num_threads(1)  # processes share the cores better than threads do
    _cropper, _stop = FaceCropper(**options), stop
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()  # one that is killed tells nobody, and its workers would wait for work forever
    os._exit(1)


def _work(path: Path, people: Photos, resolution: int, lost: Collection[int], journal: Path) -> About | None:
    """`prepare_shard` in a worker, which leaves the number of the picture it is at: it may die of it."""
    assert _cropper is not None and _stop is not None
    return prepare_shard(
        path,
        people,
        cropper=_cropper,
        resolution=resolution,
        stopped=_stop.is_set,
        lost=lost,
        begun=lambda number: journal.write_text(str(number)),
    )


def prepare_shards(
    jobs: Mapping[Path, Photos], *, resolution: int, cropper: dict[str, Any], num_workers: int | None = None
) -> Iterator[About]:
    """Makes every shard and gives what each says of itself, in the order in which they are done.

    On Ctrl-C the shards in work are dropped; those that are done are whole. Where a process dies of a picture, the
    shards in work are made one at a time until it is known of which, and that one is left out.

    Args:
        cropper: arguments of FaceCropper, which each process builds for itself.
        num_workers: processes, by default one per core; 0 works in this one. They are spawned: a script must call this
            under `if __name__ == "__main__"`.
    """
    if num_workers == 0:
        detector = FaceCropper(**cropper)
        for path, people in jobs.items():
            yield prepare_shard(path, people, cropper=detector, resolution=resolution)
        return
    left, suspects, lost = dict(jobs), list[Path](), defaultdict[Path, set[int]](set)
    with tempfile.TemporaryDirectory() as folder:
        journals = {path: Path(folder, str(number)) for number, path in enumerate(jobs)}
        while left:
            batch = suspects[:1] or list(left)
            work = {path: (path, left[path], resolution, frozenset(lost[path]), journals[path]) for path in batch}
            try:
                for path, about in _in_pool(work, cropper, num_workers=1 if suspects else num_workers):
                    del left[path]
                    suspects = [other for other in suspects if other != path]
                    yield about
            except BrokenProcessPool:
                struck = [path for path in batch if path in left and journals[path].is_file()]
                if not struck:  # they do not even start
                    raise
                if suspects:
                    lost[struck[0]].add(int(journals[struck[0]].read_text()))
                suspects = struck


def _in_pool(
    work: Mapping[Path, tuple], cropper: dict[str, Any], *, num_workers: int | None
) -> Iterator[tuple[Path, About]]:
    """Arguments of `_work` by shard, in parallel: each shard once it is done."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(num_workers or os.cpu_count() or 1, len(work)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(stop, cropper),
    )
    # A terminal sends Ctrl-C to all processes. Started while it is ignored, the workers go on ignoring it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        shards = {pool.submit(_work, *arguments): path for path, arguments in work.items()}
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        for done in as_completed(shards):
            yield shards[done], done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
