"""Crops photos once, into tar shards: python -m experiments.prepare source=folders root=photos output=shards

Under `output`: {train,val,test}-00000.tar and so on, splits.json (who is in which split), manifest.json (what is in
each shard, every picture that was skipped and why, every remark on one that was not, every other file). No picture is
in two splits, also under two names. An interrupted run resumes: shards that exist are kept. Training reads them with
faces.source=shards faces.root=<output>.
"""

import sys

from tqdm.auto import tqdm

from experiments.cli import run
from experiments.config import Prepare, dotted, load
from experiments.outputs import named_paths
from hdb.faces.duplicates import drop_duplicate_crops
from hdb.faces.people import People, PeopleOptions
from hdb.faces.preparation import RECORDS, claim_folder, plan_shards, prepare_shards, write_manifest
from hdb.runs.locks import locked, own_place
from hdb.runs.outputs import check_room, refuse_inputs
from hdb.training.caches import write_caches


def main(argv: list[str]) -> None:
    config = load(Prepare, argv)
    config.cache.refuse_missing()
    people = People(
        PeopleOptions(
            source=config.source,
            root=config.root,
            splits=config.splits,
            num_identities=config.num_identities,
            num_val_identities=config.num_val_identities,
            num_test_identities=config.num_test_identities,
        )
    )
    folder = own_place(config.output)
    check_room(folder, is_folder=True)
    for place in (folder, *(folder / name for name in RECORDS)):
        refuse_inputs(place, named_paths(config), within=False)
    shards = plan_shards(folder, people, identities_per_shard=config.identities_per_shard)
    apart = ("output", "num_workers", *(name for name in dotted(config) if name.startswith("cache.")))
    settings = {key: value for key, value in dotted(config).items() if key not in apart}
    with locked(folder):
        claim_folder(folder, settings, shards)
        missing = {path: photos for path, photos in shards.items() if not path.is_file()}
        cropper = {"min_size": config.min_face, "max_turn": config.max_turn, "margin": config.margin}
        done = prepare_shards(missing, resolution=config.resolution, cropper=cropper, num_workers=config.num_workers)
        for about in tqdm(done, total=len(missing), desc="shards", disable=not missing):
            for picture in about["skipped"]:
                tqdm.write(f"skipped ({picture['reason']}): {picture['message']}", file=sys.stderr)
        drop_duplicate_crops(shards)
        write_manifest(folder, list(shards), people.splits, people.photos.unused)
        trained_on = [path for path in shards if path.stem.startswith("train-")]
        write_caches(trained_on, config.cache, resolution=config.resolution)


if __name__ == "__main__":
    run(main)
