"""A folder of prepared shards: whose photos go into which, how it is resumed, its manifest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import yaml

from hdb.faces.folders import Other
from hdb.faces.names import in_sentence
from hdb.faces.people import READERS, SPLITS_FILE, People
from hdb.faces.photos import Photos, select
from hdb.faces.picture import name_of
from hdb.faces.prepared import read_about
from hdb.faces.splits import Splits
from hdb.files import write_json, write_text

RECORDS = (SPLITS_FILE, "manifest.json", "prepare.yaml")  # beside the shards


def shard_jobs(folder: Path, people: People, *, identities_per_shard: int) -> dict[Path, Photos]:
    """Whose photos go into which shard: {train,val,test}-00000.tar and so on, so many people each.

    Raises:
        ValueError: the source has no photos of its own.
    """
    if people.photos is None:
        expected = f"expected photos: {', '.join(READERS)} or an artifact of folders or pictures"
        options = people.options
        raise ValueError(f"source={options.source} root={options.root} are no photos; {expected}")
    splits = people.splits
    return {
        folder / f"{split}-{number:05d}.tar": select(people.photos, names[start : start + identities_per_shard])
        for split, names in (("train", splits.train), ("val", splits.val), ("test", splits.test))
        for number, start in enumerate(range(0, len(names), identities_per_shard))
    }


def claim_shards(folder: Path, settings: dict[str, object], jobs: dict[Path, Photos]) -> None:
    """Makes `folder` ready, or resumes in it.

    Args:
        settings: that the shards depend on.

    Raises:
        ValueError: it holds shards of other settings or of other pictures, or shards from elsewhere.
    """
    listing = [
        [path.name, name, [name_of(picture) for picture in of]]
        for path, photos in jobs.items()
        for name, of in photos.items()
    ]
    settings = settings | {
        "pictures": sum(len(of) for _, _, of in listing),
        "listing": sha256(repr(listing).encode()).hexdigest(),
    }
    record = folder / "prepare.yaml"
    if record.is_file():
        earlier = yaml.safe_load(record.read_text())
        for key, value in settings.items():
            if key != "root" and earlier.get(key) != value:  # it is part of the listing, and may be spelled in two ways
                given = f"{folder} was begun with {key} {earlier.get(key)!r}, but now it is {value!r}"
                raise ValueError(f"{given}; expected the same settings and pictures, or another output")
        return
    if foreign := next((name for name in RECORDS if (folder / name).exists()), None):
        raise ValueError(f"{folder} holds {foreign} from elsewhere; expected a new or empty output")
    if any(folder.glob("*.tar")):
        raise ValueError(f"{folder} holds shards from elsewhere; expected a new or empty output")
    write_text(record, yaml.safe_dump(settings, sort_keys=False))


def write_manifest(folder: Path, shards: list[Path], splits: Splits, others: Sequence[Other]) -> None:
    """Writes the manifest, and the splits of those who have a picture; says what was skipped.

    Args:
        others: files beside the photos, which are named.

    Raises:
        ValueError: nobody is left.
    """
    abouts = {path.name: read_about(path) for path in shards}
    there = {name: num for about in abouts.values() for name, num in about["people"].items()}
    skipped = [picture for about in abouts.values() for picture in about["skipped"]]
    counts = dict(Counter(picture["reason"] for picture in skipped))
    notes = [note for about in abouts.values() for note in about["notes"]]
    manifest = {
        "people": len(there),
        "pictures": sum(there.values()),
        "skipped": counts,
        "shards": {name: about["people"] for name, about in abouts.items()},
        "skipped_pictures": skipped,
        "notes": notes,
        "other_files": [other._asdict() for other in others],
    }
    write_json(folder / "manifest.json", manifest)
    kept = {split: [name for name in getattr(splits, split) if name in there] for split in ("train", "val", "test")}
    write_json(folder / SPLITS_FILE, asdict(replace(splits, **kept)))
    said = ", ".join(f"{reason} {num}" for reason, num in counts.items()) or "nothing"
    if not there:
        raise ValueError(f"none of the {len(skipped)} pictures can be used ({said}); {folder}/manifest.json says why")
    people, pictures = f"{len(there)} people", f"{sum(there.values())} pictures"
    print(f"{in_sentence(str(folder))}: {people}, {pictures} in {len(shards)} shards; skipped: {said}")
    if notes or others:
        print(f"{len(notes)} remarks and {len(others)} other files: see manifest.json there")
