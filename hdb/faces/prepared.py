"""Photos cropped once and kept as tar shards: in parallel, each whole or not there, so that a call can go on."""

import json
import multiprocessing
import os
import signal
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from io import BytesIO
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image

from hdb.faces.crop import FaceCropper
from hdb.faces.photos import Photos
from hdb.faces.picture import FaceError, Picture, name_of
from hdb.files import written_whole

ABOUT = "__about__"  # readers of webdataset pass over files of such a name


class About(TypedDict):
    """What a shard says of itself: who is in it with how many pictures, what was skipped, what was remarked."""

    people: dict[str, int]
    skipped: list[dict[str, str]]  # picture, reason (one of REASONS), message
    notes: list[dict[str, str]]  # picture, message: several faces, say


def prepare_shard(
    path: Path,
    people: Photos,
    *,
    cropper: FaceCropper,
    resolution: int,
    stopped: Callable[[], bool] = lambda: False,
) -> About | None:
    """Crops the pictures of some people and writes them as one tar: a sample per person, read by ShardFaces.

    A sample is `<key>.json` {"identity": name} and `<key>.0.jpg`, `<key>.1.jpg` and so on. Before all of them stands
    what `read_about` reads. A picture that cannot be used is named there; a person without any is left out.

    Args:
        stopped: asked before each person; once it says yes nothing is written, and None returned.
    """
    about, files = About(people={}, skipped=[], notes=[]), {}
    for number, (name, pictures) in enumerate(people.items()):
        if stopped():
            return None
        crops = [jpeg for picture in pictures if (jpeg := crop_to_jpeg(picture, cropper, resolution, about))]
        if crops:
            about["people"][name] = len(crops)
            key = f"{path.stem}-{number:05d}"
            files[f"{key}.json"] = json.dumps({"identity": name}).encode()  # first, so that no cut separates it
            files |= {f"{key}.{place}.jpg": crop for place, crop in enumerate(crops)}
    with written_whole(path) as part, tarfile.open(part, "w") as tar:
        for name, data in ({ABOUT: json.dumps(about).encode()} | files).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return about


def crop_to_jpeg(picture: Picture, cropper: FaceCropper, resolution: int, about: About) -> bytes | None:
    """The crop of a picture as a file, or None with the reason in `about`."""
    name, file = name_of(picture), BytesIO()
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            crop = cropper.crop(picture, resolution=resolution)
    except FaceError as error:
        about["skipped"].append({"picture": name, "reason": error.reason, "message": str(error)})
        return None
    about["notes"] += [{"picture": name, "message": str(remark.message)} for remark in remarks]
    pixels = (crop * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    # Chroma is kept at full resolution, and the pixels within 1 level on average: they will be a network's target.
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
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
        raise ValueError(f"{path} is no shard that was prepared ({error}); delete it to have it made anew") from None


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


def _work(path: Path, people: Photos, resolution: int) -> About | None:
    assert _cropper is not None and _stop is not None
    return prepare_shard(path, people, cropper=_cropper, resolution=resolution, stopped=_stop.is_set)


def prepare_shards(
    jobs: Mapping[Path, Photos], *, resolution: int, cropper: dict[str, Any], num_workers: int | None = None
) -> Iterator[About]:
    """Makes every shard and gives what each says of itself, in the order in which they are done.

    On Ctrl-C the shards in work are dropped; those that are done are whole.

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
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(num_workers or os.cpu_count() or 1, max(1, len(jobs))),
        mp_context=context,
        initializer=_start_worker,
        initargs=(stop, cropper),
    )
    # A terminal sends Ctrl-C to all processes. Started while it is ignored, the workers go on ignoring it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        shards = [pool.submit(_work, path, people, resolution) for path, people in jobs.items()]
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        for done in as_completed(shards):
            yield done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
