"""The people of an evaluation, personalized by a method: files that are kept, their size and the time they took."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from hdb.files import write_json
from hdb.methods.protocol import Method, Personalization, Photos, StoringMethod
from hdb.training.ranks import all_gather, barrier, broadcast_from_rank_zero, is_rank_zero, rank, rank_shard, world_size

# Of one person, as results.json has it: seconds as one of a batch, seconds_alone, bytes.
Cost = dict[str, float]


def subjects_folder(folder: Path) -> Path:
    """Where the files of an evaluation lie, in a folder for each method."""
    return folder / "subjects"


def personalize_everybody(
    method: Method, photos: Photos, folder: Path, *, at_once: int
) -> tuple[Personalization, Cost]:
    """Everybody by one method, from files as far as there are some; nobody is personalized twice.

    Several processes share the people.

    Args:
        folder: of the evaluation; files lie in subjects/<method>/.
        at_once: people together, if the method can.
    """
    if not isinstance(method, StoringMethod):
        return method.personalize(photos), {"seconds": 0.0, "seconds_alone": 0.0, "bytes": 0}
    place = subjects_folder(folder) / method.name
    paths, seconds = [place / f"{name}.safetensors" for name in photos.names], read_seconds(place)
    times = place / ("seconds.json" if world_size() == 1 else f"seconds-{rank()}.json")
    size = min(at_once, method.at_once or at_once)
    for start in rank_shard(range(0, len(photos), size)):
        some = slice(start, start + size)
        if all(name in seconds for name in photos.names[some]):
            continue
        started = time.perf_counter()
        print(f"{method.name}: people {start + 1} to {min(start + size, len(photos))} of {len(photos)}")
        people = method.personalize(photos[some])
        each = (time.perf_counter() - started) / len(people)
        people.save(paths[some], about=[{"source": name} for name in photos.names[some]])
        seconds |= dict.fromkeys(photos.names[some], each)
        write_json(times, seconds)
    seconds = join_seconds(place, seconds)
    cost = {
        "seconds": sum(seconds.values()) / len(photos),
        "seconds_alone": broadcast_from_rank_zero(
            lambda: seconds_alone(method, photos, place / "alone.json", known=seconds, size=size)
        ),
        "bytes": sum(path.stat().st_size for path in paths) / len(photos),
    }
    return method.load(paths), cost


def read_seconds(place: Path) -> dict[str, float]:
    """What each person took: seconds.json, and what processes kept that were stopped before it was written."""
    records = (json.loads(path.read_text()) for path in sorted(place.glob("seconds*.json")))
    return {name: seconds for record in records for name, seconds in record.items()}


def join_seconds(place: Path, seconds: dict[str, float]) -> dict[str, float]:
    """The seconds of all processes, which the first writes into one file."""
    joined = {name: each for of_process in all_gather(seconds) for name, each in of_process.items()}
    if world_size() > 1 and is_rank_zero():
        write_json(place / "seconds.json", joined)
        for part in place.glob("seconds-*.json"):
            part.unlink()
    barrier()
    return joined


def seconds_alone(
    method: StoringMethod, photos: Photos, record: Path, *, known: Mapping[str, float], size: int
) -> float:
    """What one person takes who does not share the machine: known, or measured on the first one and kept in `record`.

    Args:
        known: seconds of each person.
        size: how many people these were measured together.
    """
    if min(size, len(photos)) == 1:
        return sum(known.values()) / len(known)
    if not record.is_file():
        started = time.perf_counter()
        method.personalize(photos[:1])
        write_json(record, {"seconds": time.perf_counter() - started})
    return json.loads(record.read_text())["seconds"]
