"""Crops photos once into a folder of tar shards: in several processes, resumable, with a manifest."""

import glob
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from hashlib import sha256
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
import yaml

from hdb.faces.crop import FaceCropper
from hdb.faces.folders import UnusedFile
from hdb.faces.names import printable
from hdb.faces.people import READERS, People
from hdb.faces.photos import Photos, select
from hdb.faces.picture import picture_name
from hdb.faces.shard_writer import About, prepare_shard, read_about
from hdb.faces.splits import SPLITS_FILE, Splits
from hdb.files import write_json, write_text

RECORDS = (SPLITS_FILE, "manifest.json", "prepare.yaml")  # files beside the shards


def plan_shards(folder: Path, people: People, *, identities_per_shard: int) -> dict[Path, Photos]:
    """The photos that go into each shard: {train,val,test}-00000.tar and so on.

    Raises:
        ValueError: the source has no photos of its own.
    """
    if people.photos is None:
        expected = f"expected photos: {', '.join(READERS)} or an artifact of folders or pictures"
        options = people.options
        raise ValueError(f"source={options.source} root={options.root} are no photos; {expected}")
    shards = {}
    for split in ("train", "val", "test"):
        names = getattr(people.splits, split)
        for number, start in enumerate(range(0, len(names), identities_per_shard)):
            path = folder / f"{split}-{number:05d}.tar"
            shards[path] = select(people.photos, names[start : start + identities_per_shard])
    return shards


def claim_folder(folder: Path, settings: Mapping[str, object], shards: Mapping[Path, Photos]) -> None:
    """Records what a folder is prepared from, or checks that it was begun with the same.

    Args:
        settings: all settings that the shards depend on.

    Raises:
        ValueError: the folder holds shards of other settings or pictures, or shards from elsewhere.
    """
    listing = [
        [path.name, name, [picture_name(picture) for picture in pictures]]
        for path, photos in shards.items()
        for name, pictures in photos.items()
    ]
    record = dict(settings) | {
        "pictures": sum(len(pictures) for _, _, pictures in listing),
        "listing": sha256(repr(listing).encode()).hexdigest(),
    }
    record_file = folder / "prepare.yaml"
    if record_file.is_file():
        earlier = yaml.safe_load(record_file.read_text())
        for key, value in record.items():
            if key != "root" and earlier.get(key) != value:  # the listing covers root, which has several spellings
                problem = f"{folder} was begun with {key} {earlier.get(key)!r}, but now it is {value!r}"
                raise ValueError(f"{problem}; expected the same settings and pictures, or another output")
        return
    for name in RECORDS:
        if (folder / name).exists():
            raise ValueError(f"{folder} holds {name} from elsewhere; expected a new or empty output")
    if any(folder.glob("*.tar")):
        raise ValueError(f"{folder} holds shards from elsewhere; expected a new or empty output")
    write_text(record_file, yaml.safe_dump(record, sort_keys=False))


def prepare_shards(
    shards: Mapping[Path, Photos], *, resolution: int, cropper: dict[str, Any], num_workers: int | None = None
) -> Iterator[About]:
    """Makes every shard and yields what each says of itself, in the order in which they are done.

    On Ctrl-C the shards in work are dropped; those that are done are whole. If a process dies of a picture, the shards
    in work are made one at a time until the picture is known, which is then left out.

    Args:
        cropper: arguments of `FaceCropper`, which each process builds for itself.
        num_workers: processes, by default one per core; 0 works in this one. They are spawned: a script must call this
            under `if __name__ == "__main__"`.
    """
    _remove_unfinished(shards)  # of an earlier call
    if num_workers == 0:
        face_cropper = FaceCropper(**cropper)
        for path, photos in shards.items():
            yield prepare_shard(path, photos, cropper=face_cropper, resolution=resolution)
        return
    remaining = dict(shards)
    suspects: list[Path] = []  # shards that were in work when a process died
    lost: dict[Path, set[int]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as folder:
        journals = {path: Path(folder, str(number)) for number, path in enumerate(shards)}
        while remaining:
            batch = suspects[:1] or list(remaining)
            arguments = {
                path: (path, remaining[path], resolution, frozenset(lost[path]), journals[path]) for path in batch
            }
            try:
                for path, about in _in_pool(arguments, cropper, num_workers=1 if suspects else num_workers):
                    del remaining[path]
                    suspects = [suspect for suspect in suspects if suspect != path]
                    yield about
            except BrokenProcessPool:
                _remove_unfinished(batch)
                struck = [path for path in batch if path in remaining and journals[path].is_file()]
                if not struck:  # the processes do not even start
                    raise
                if suspects:
                    lost[struck[0]].add(int(journals[struck[0]].read_text()))
                suspects = struck


def _in_pool(
    arguments: Mapping[Path, tuple], cropper: dict[str, Any], *, num_workers: int | None
) -> Iterator[tuple[Path, About]]:
    """Calls `_work` for each shard in parallel; yields each shard once it is done."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(num_workers or os.cpu_count() or 1, len(arguments)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(stop, cropper),
    )
    # A terminal sends Ctrl-C to all processes. Started while it is ignored, the workers go on ignoring it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures = {pool.submit(_work, *values): path for path, values in arguments.items()}
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


# One detector per process: building it takes longer than a picture.
_cropper: FaceCropper | None = None
_stop: Event | None = None


def _start_worker(stop: Event, options: dict[str, Any]) -> None:
    global _cropper, _stop
    torch.set_num_threads(1)  # processes share the cores better than threads do
    _cropper, _stop = FaceCropper(**options), stop
    threading.Thread(target=_exit_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_with(parent: BaseProcess) -> None:
    """Ends this process with its parent: the workers of a parent that was killed wait for work forever."""
    parent.join()
    os._exit(1)


def _work(path: Path, photos: Photos, resolution: int, lost: Collection[int], journal: Path) -> About | None:
    """`prepare_shard` in a worker, which writes down the number of each picture: it may die of it."""
    assert _cropper is not None and _stop is not None
    return prepare_shard(
        path,
        photos,
        cropper=_cropper,
        resolution=resolution,
        should_stop=_stop.is_set,
        lost=lost,
        on_begin=lambda number: journal.write_text(str(number)),
    )


def _remove_unfinished(shards: Iterable[Path]) -> None:
    """Deletes the temporary files of `atomic_write` that processes left which were killed while they wrote."""
    for path in shards:
        for temporary in path.parent.glob(f".{glob.escape(path.name[:40])}.*.tmp"):
            temporary.unlink(missing_ok=True)


def write_manifest(
    folder: Path,
    shards: Sequence[Path],
    splits: Splits,
    unused: Sequence[UnusedFile],
    *,
    num_asked: Mapping[str, int],
) -> None:
    """Writes the manifest and the splits of those who have a picture; prints what was skipped, and who is missing.

    Args:
        unused: files beside the photos.
        num_asked: people who were asked for in val and test.

    Raises:
        ValueError: nobody is left.
    """
    abouts = {path.name: read_about(path) for path in shards}
    num_pictures = {name: num for about in abouts.values() for name, num in about["people"].items()}
    skipped = [row for about in abouts.values() for row in about["skipped"]]
    counts = dict(Counter(row["reason"] for row in skipped))
    notes = [note for about in abouts.values() for note in about["notes"]]
    manifest = {
        "people": len(num_pictures),
        "pictures": sum(num_pictures.values()),
        "skipped": counts,
        "shards": {name: about["people"] for name, about in abouts.items()},
        "skipped_pictures": skipped,
        "notes": notes,
        "other_files": [file._asdict() for file in unused],
    }
    write_json(folder / "manifest.json", manifest)
    kept = {
        split: [name for name in getattr(splits, split) if name in num_pictures] for split in ("train", "val", "test")
    }
    write_json(folder / SPLITS_FILE, asdict(replace(splits, **kept)))
    reasons = ", ".join(f"{reason} {num}" for reason, num in counts.items()) or "nothing"
    if not num_pictures:
        raise ValueError(
            f"none of the {len(skipped)} pictures can be used ({reasons}); {folder}/manifest.json says why"
        )
    totals = f"{len(num_pictures)} people, {sum(num_pictures.values())} pictures"
    print(f"{printable(str(folder))}: {totals} in {len(shards)} shards; skipped: {reasons}")
    for split, num in num_asked.items():
        if len(kept[split]) < num:
            print(f"{split} has {len(kept[split])} of {num} people: no more of those who were asked for can be used")
    if notes or unused:
        print(f"{len(notes)} remarks and {len(unused)} other files: see manifest.json there")
