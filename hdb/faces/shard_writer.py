"""Writes and changes tar shards of face crops; each shard is whole or not there."""

import errno
import itertools
import json
import tarfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TypedDict

import torch
from PIL import Image

from hdb.faces.crop import FaceCropper
from hdb.faces.photos import Photos
from hdb.faces.picture import FaceError, Picture, crash_message, picture_name
from hdb.files import atomic_write

ABOUT = "__about__"  # readers of webdataset pass over files of such a name


class About(TypedDict):
    """What a shard says of itself: who is in it with how many pictures, what was skipped, what was remarked."""

    people: dict[str, int]
    skipped: list[dict[str, str]]  # picture, reason (one of REASONS), message
    notes: list[dict[str, str]]  # picture, message: several faces, for example
    crops: list[dict[str, str]]  # picture, person, file (in the shard), digest (of the file)


def prepare_shard(
    path: Path,
    photos: Photos,
    *,
    cropper: FaceCropper,
    resolution: int,
    should_stop: Callable[[], bool] = lambda: False,
    lost: Collection[int] = (),
    on_begin: Callable[[int], object] = lambda number: None,
) -> About | None:
    """Crops the photos of some people and writes them as one tar: a sample for each person, read by `ShardFaces`.

    A sample is `<key>.json`, as `ShardReader` reads it, and `<key>.0.jpg`, `<key>.1.jpg` and so on. Before all of them
    stands what `read_about` reads. A picture that cannot be used is named there; a person without any is left out.

    Args:
        should_stop: called before each picture; once it returns True nothing is written, and None is returned.
        lost: numbers of pictures, counted through the shard, that are not tried: each has ended a process.
        on_begin: called with the number of each picture before it is tried.

    Raises:
        OSError: it cannot be written.
    """
    about = About(people={}, skipped=[], notes=[], crops=[])
    files: dict[str, bytes] = {}
    counter = itertools.count()
    for number, (name, pictures) in enumerate(photos.items()):
        key = f"{path.stem}-{number:05d}"
        crops: dict[str, bytes] = {}
        sides: dict[str, int] = {}
        for picture in pictures:
            if should_stop():
                return None
            picture_number = next(counter)
            on_begin(picture_number)
            if picture_number in lost:
                message = f"{picture_name(picture)} cannot be used: a process died of it, for want of memory perhaps"
                about["skipped"].append({"picture": picture_name(picture), "reason": "crashed", "message": message})
                continue
            jpeg_and_side = _crop_to_jpeg(picture, cropper, resolution, about)
            if jpeg_and_side is not None:
                crop, sides[f"{len(crops)}.jpg"] = jpeg_and_side
                file = f"{key}.{len(crops)}.jpg"
                crops[file] = crop
                digest = sha256(crop).hexdigest()
                row = {"picture": picture_name(picture), "person": name, "file": file, "digest": digest}
                about["crops"].append(row)
        if crops:
            about["people"][name] = len(crops)
            # First, so that no cut separates it.
            files[f"{key}.json"] = json.dumps({"identity": name, "sides": sides}).encode()
            files |= crops
    write_shard(path, about, files)
    return about


def _crop_to_jpeg(picture: Picture, cropper: FaceCropper, resolution: int, about: About) -> tuple[bytes, int] | None:
    """The crop of a picture as a file, and its side in the picture; None, and the reason in `about`, without one."""
    name = picture_name(picture)
    file = BytesIO()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            crop = cropper.cut(picture, resolution=resolution, crop=True)
        pixels = (crop.pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        # Crops are a network's targets: full chroma and this quality keep pixels within 1 level on average.
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    except FaceError as error:
        about["skipped"].append({"picture": name, "reason": error.reason, "message": str(error)})
        return None
    except Exception as error:  # whatever one photo makes a library raise, the others are prepared
        about["skipped"].append({"picture": name, "reason": "crashed", "message": crash_message(picture, error)})
        return None
    messages = dict.fromkeys(str(warning.message) for warning in caught)
    about["notes"] += [{"picture": name, "message": message} for message in messages]
    return file.getvalue(), crop.side


def write_shard(path: Path, about: About, files: Mapping[str, bytes]) -> None:
    """Writes a whole tar or none.

    Raises:
        OSError: it cannot be written, for example on a full disk. The error names the file.
    """
    # webdataset's TarWriter leaves out a file with ABOUT's name.
    with _path_in_errors(path), atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
        for name, data in ({ABOUT: json.dumps(about).encode()} | dict(files)).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


@contextmanager
def _path_in_errors(path: Path) -> Iterator[None]:
    """Adds the path to an OSError: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from None


def read_about(path: Path) -> About:
    """What a shard says of itself.

    Raises:
        ValueError: it was not written by `prepare_shard`.
    """
    try:
        with tarfile.open(path) as tar:
            return json.load(tar.extractfile(ABOUT))
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no shard that was prepared ({error}); delete it to have it made again") from None


def read_shard(path: Path) -> tuple[About, dict[str, bytes]]:
    """What a prepared shard says of itself, and its files: name -> content."""
    about = read_about(path)
    with tarfile.open(path) as tar:
        return about, {member.name: tar.extractfile(member).read() for member in tar if member.name != ABOUT}


def remove_crops(path: Path, messages: Mapping[str, str]) -> None:
    """Writes a shard again without some of its crops: file -> the message that says why."""
    about, files = read_shard(path)
    for row in about["crops"]:
        file, person = row["file"], row["person"]
        if file in messages:
            del files[file]
            about["skipped"].append({"picture": row["picture"], "reason": "copy", "message": messages[file]})
            about["people"][person] -= 1
            if not about["people"][person]:
                del about["people"][person]
                del files[f"{file.partition('.')[0]}.json"]
    about["crops"] = [row for row in about["crops"] if row["file"] not in messages]
    write_shard(path, about, files)
