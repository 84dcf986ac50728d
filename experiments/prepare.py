"""Crops photos once, into tar shards: python -m experiments.prepare source=folders root=photos output=shards

Under `output`: {train,val,test}-00000.tar and so on, splits.json (who is in which split), manifest.json (what is in
each shard, every picture that was skipped and why, every remark on one that was not, every other file). Who is in which
split is drawn of those who have a usable picture, unless a file lists it. No picture is in two splits, also under two
names. An interrupted run resumes: shards that exist are kept. Training reads them with faces.source=shards
faces.root=<output>.
"""

import sys

from experiments.cli import run
from experiments.config import Prepare, dotted, load
from hdb.faces.photo_files import refuse_missing_source


def main(argv: list[str]) -> None:
    config = load(Prepare, argv)
    refuse_missing_source(config.source, config.root)
    prepare(config)


def prepare(config: Prepare) -> None:
    from tqdm.auto import tqdm

    from experiments.outputs import find_inputs
    from hdb.faces.duplicates import drop_duplicate_crops
    from hdb.faces.options import PeopleOptions
    from hdb.faces.people import People
    from hdb.faces.preparation import RECORDS, claim_folder, plan_shards, prepare_shards, write_manifest
    from hdb.faces.redraw import prepared_shards, redraw_splits
    from hdb.runs.locks import locked
    from hdb.runs.outputs import check_room, refuse_inputs, resolve_output
    from hdb.training.caches import check_cache_networks, write_caches

    check_cache_networks(config.cache)
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
    output = resolve_output(config.output)
    check_room(output, is_folder=True)
    for path in (output, *(output / name for name in RECORDS)):
        refuse_inputs(path, find_inputs(config), within=False)
    shards = plan_shards(output, people, identities_per_shard=config.identities_per_shard)
    settings = {
        name: value
        for name, value in dotted(config).items()
        if name not in ("output", "num_workers") and not name.startswith("cache.")
    }
    with locked(output):
        claim_folder(output, settings, shards)
        missing = {path: photos for path, photos in shards.items() if not path.is_file()}
        prepared = prepare_shards(
            missing,
            resolution=config.resolution,
            cropper={"min_size": config.min_face, "max_turn": config.max_turn, "margin": config.margin},
            num_workers=config.num_workers,
        )
        for about in tqdm(prepared, total=len(missing), desc="shards", disable=not missing):
            for picture in about["skipped"]:
                tqdm.write(f"skipped ({picture['reason']}): {picture['message']}", file=sys.stderr)
        if people.has_listed_splits:
            drop_duplicate_crops(shards)
            splits = people.splits
            num_asked = {"val": len(splits.val), "test": len(splits.test)}
        else:
            num_asked = {"val": config.num_val_identities, "test": config.num_test_identities}
            splits = redraw_splits(output, people.splits, num_val=num_asked["val"], num_test=num_asked["test"])
        kept = prepared_shards(output)
        write_manifest(output, kept, splits, people.photos.unused, num_asked=num_asked)
        train_shards = [path for path in kept if path.stem.startswith("train-")]
        write_caches(train_shards, config.cache, resolution=config.resolution)


if __name__ == "__main__":
    run(main)
