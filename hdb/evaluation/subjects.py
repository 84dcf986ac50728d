"""The people of an evaluation, personalized by a method: files that are kept, their size and the time they took."""

import json
import time
from pathlib import Path

from hdb.files import write_json
from hdb.methods.protocol import Method, Personalization, Photos, StoringMethod

Cost = dict[str, float]  # seconds and bytes of one person, as results.json has them


def personalize_everybody(
    method: Method, photos: Photos, folder: Path, *, at_once: int
) -> tuple[Personalization, Cost]:
    """Everybody by one method, from files as far as there are some; nobody is personalized twice.

    Args:
        folder: of the evaluation; files lie in subjects/<method>/.
        at_once: people together, if the method can.
    """
    if not isinstance(method, StoringMethod):
        return method.personalize(photos), {"seconds": 0.0, "bytes": 0}
    place = folder / "subjects" / method.name
    paths, times = [place / f"{name}.safetensors" for name in photos.names], place / "seconds.json"
    seconds = json.loads(times.read_text()) if times.is_file() else {}
    size = min(at_once, method.at_once or at_once)
    for start in range(0, len(photos), size):
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
    cost = {
        "seconds": sum(seconds.values()) / len(photos),
        "bytes": sum(path.stat().st_size for path in paths) / len(photos),
    }
    return method.load(paths), cost
