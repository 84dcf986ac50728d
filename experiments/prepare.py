"""Crops photos once, into tar shards: python -m experiments.prepare source=folders root=photos output=shards

Under `output`: {train,val,test}-00000.tar and so on, splits.json (who is in which split), manifest.json (what is in
each shard, every picture that was skipped and why, every remark on one that was not, every other file). No picture is
in two splits, also under two names. An interrupted run goes on: shards that exist are kept. Training reads them with
faces.source=shards faces.root=<output>.
"""

import sys
from collections import Counter
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import yaml
from tqdm.auto import tqdm

from experiments.cli import run
from experiments.people import READERS, SPLITS_FILE, People
from experiments.runs import write_json, write_text
from hdb.config import Faces, Prepare, dotted, load
from hdb.faces.copies import part_shards
from hdb.faces.folders import Other
from hdb.faces.names import in_sentence
from hdb.faces.photos import Photos, select
from hdb.faces.picture import name_of
from hdb.faces.prepared import naming, prepare_shards, read_about
from hdb.faces.splits import Splits


def main(argv: list[str]) -> None:
    config = load(Prepare, argv)
    if config.identities_per_shard < 1 or config.resolution < 1:
        given = f"identities_per_shard is {config.identities_per_shard} and resolution {config.resolution}"
        raise ValueError(f"{given}, expected at least 1 each")
    people = People(
        Faces(
            source=config.source,
            root=config.root,
            splits=config.splits,
            num_identities=config.num_identities,
            num_val_identities=config.num_val_identities,
            num_test_identities=config.num_test_identities,
        )
    )
    if people.photos is None:
        expected = f"expected photos: {', '.join(READERS)} or an artifact of folders or pictures"
        raise ValueError(f"source={config.source} root={config.root} are no photos; {expected}")
    folder = Path(config.output)
    jobs = {
        folder / f"{split}-{number:05d}.tar": select(people.photos, names[start : start + config.identities_per_shard])
        for split, names in (("train", people.splits.train), ("val", people.splits.val), ("test", people.splits.test))
        for number, start in enumerate(range(0, len(names), config.identities_per_shard))
    }
    claim(folder, config, jobs)
    missing = {path: photos for path, photos in jobs.items() if not path.is_file()}
    cropper = {"min_size": config.min_face, "max_turn": config.max_turn, "margin": config.margin}
    done = prepare_shards(missing, resolution=config.resolution, cropper=cropper, num_workers=config.num_workers)
    for about in tqdm(done, total=len(missing), desc="shards", disable=not missing):
        for picture in about["skipped"]:
            tqdm.write(f"skipped ({picture['reason']}): {picture['message']}", file=sys.stderr)
    part_shards(jobs)
    summarize(folder, list(jobs), people.splits, people.photos.others)


def claim(folder: Path, config: Prepare, jobs: dict[Path, Photos]) -> None:
    """Makes `folder` ready, or goes on in it.

    Raises:
        ValueError: it holds shards of other settings or of other pictures, or shards from elsewhere.
    """
    listing = [
        [path.name, name, [name_of(picture) for picture in of]]
        for path, photos in jobs.items()
        for name, of in photos.items()
    ]
    settings = {key: value for key, value in dotted(config).items() if key not in ("output", "num_workers")}
    settings |= {
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
    if any(folder.glob("*.tar")):
        raise ValueError(f"{folder} holds shards from elsewhere; expected a new or empty output")
    with naming(record):
        write_text(record, yaml.safe_dump(settings, sort_keys=False))


def summarize(folder: Path, shards: list[Path], splits: Splits, others: list[Other]) -> None:
    """Writes the manifest and the splits, of whom there is a picture; says what was skipped or no picture at all.

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
    with naming(folder / "manifest.json"):
        write_json(folder / "manifest.json", manifest)
    kept = {split: [name for name in getattr(splits, split) if name in there] for split in ("train", "val", "test")}
    with naming(folder / SPLITS_FILE):
        write_json(folder / SPLITS_FILE, asdict(replace(splits, **kept)))
    said = ", ".join(f"{reason} {num}" for reason, num in counts.items()) or "nothing"
    if not there:
        raise ValueError(f"none of the {len(skipped)} pictures can be used ({said}); {folder}/manifest.json says why")
    people, pictures = f"{len(there)} people", f"{sum(there.values())} pictures"
    print(f"{in_sentence(str(folder))}: {people}, {pictures} in {len(shards)} shards; skipped: {said}")
    if notes or others:
        print(f"{len(notes)} remarks and {len(others)} other files: see manifest.json there")


if __name__ == "__main__":
    run(main)
