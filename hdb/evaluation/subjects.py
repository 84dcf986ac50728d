"""Personalizes the people of an evaluation: files that are kept, their size, and the time they took."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from hdb.files import write_json
from hdb.methods.protocol import Method, Personalization, Photos, StoringMethod
from hdb.training.ranks import all_gather, barrier, broadcast_from_rank_zero, is_rank_zero, rank, rank_shard, world_size

# Of one person, as results.json has it: seconds as one of a batch, seconds_alone, bytes.
MethodCost = dict[str, float]


def subjects_folder(folder: Path) -> Path:
    """Where the files of an evaluation lie, in a folder for each method."""
    return folder / "subjects"


def personalize_people(
    method: Method, photos: Photos, folder: Path, *, batch_size: int
) -> tuple[Personalization, MethodCost]:
    """Personalizes everybody by one method. People who have a file from before are loaded; processes share the others.

    Args:
        folder: of the evaluation; files lie in subjects/<method>/.
        batch_size: people together, if the method can.
    """
    if not isinstance(method, StoringMethod):
        return method.personalize(photos), {"seconds": 0.0, "seconds_alone": 0.0, "bytes": 0}
    method_folder = subjects_folder(folder) / method.name
    paths = [method_folder / f"{name}.safetensors" for name in photos.names]
    size = min(batch_size, method.max_batch_size or batch_size)
    seconds = read_seconds(method_folder)
    record = method_folder / ("seconds.json" if world_size() == 1 else f"seconds-{rank()}.json")
    for start in rank_shard(range(0, len(photos), size)):
        rows = slice(start, start + size)
        names = photos.names[rows]
        if all(name in seconds for name in names):
            continue
        started = time.perf_counter()
        print(f"{method.name}: people {start + 1} to {min(start + size, len(photos))} of {len(photos)}")
        people = method.personalize(photos[rows])
        seconds_each = (time.perf_counter() - started) / len(people)
        people.save(paths[rows], about=[{"source": name} for name in names])
        seconds |= dict.fromkeys(names, seconds_each)
        write_json(record, seconds)
    seconds = merge_seconds(method_folder, seconds)
    if min(size, len(photos)) == 1:
        seconds_alone = sum(seconds.values()) / len(seconds)
    else:
        seconds_alone = broadcast_from_rank_zero(lambda: time_one_person(method, photos, method_folder / "alone.json"))
    cost = {
        "seconds": sum(seconds.values()) / len(photos),
        "seconds_alone": seconds_alone,
        "bytes": sum(path.stat().st_size for path in paths) / len(photos),
    }
    return method.load(paths), cost


def read_seconds(folder: Path) -> dict[str, float]:
    """The seconds of each person: of seconds.json, and of processes that were stopped before it was written."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("seconds*.json"))]
    return {name: seconds for record in records for name, seconds in record.items()}


def merge_seconds(folder: Path, seconds: Mapping[str, float]) -> dict[str, float]:
    """The seconds of all processes, which the first one writes into one file."""
    merged = {name: value for of_process in all_gather(seconds) for name, value in of_process.items()}
    if world_size() > 1 and is_rank_zero():
        write_json(folder / "seconds.json", merged)
        for part in folder.glob("seconds-*.json"):
            part.unlink()
    barrier()
    return merged


def time_one_person(method: StoringMethod, photos: Photos, record: Path) -> float:
    """The seconds of the first person alone on the machine: of an earlier run's record, or measured and recorded."""
    if not record.is_file():
        started = time.perf_counter()
        method.personalize(photos[:1])
        write_json(record, {"seconds": time.perf_counter() - started})
    return json.loads(record.read_text())["seconds"]
