"""Options of sources of people, in a file without torch so that commands check their settings at once."""

from dataclasses import dataclass

from hdb import limits

TARGETS = ("other", "same", "all", "plain")  # photos have the first two, faceworld has all but "other"


@dataclass
class PeopleOptions:
    """Where people come from.

    `source` is folders (one per identity), flat (each picture an identity), celeba, lfw, shards, artifact or faceworld;
    `root` their folder, for shards also a pattern like https://host/faces-{000..099}.tar, for artifact the W&B name
    entity/project/name:alias of folders, flat pictures or shards. `splits` is a JSON file with the lists train, val and
    test; null takes root/splits.json where there is one, else the last people are for test, those before for
    validation; of shards that nobody listed the first are. Null `num_identities` trains on everybody else.

    `target` is the picture that a prediction must explain: the same as the reference (paper), other, or on faceworld
    all or plain. `crop` null crops all but shards. `render_workers` render what of faceworld is not on disk yet, by
    default one per core.
    """

    source: str = "flat"
    root: str = "data/celeba-hq"
    splits: str | None = None
    resolution: int = limits.number_field(512, ge=1)
    num_identities: int | None = 15000
    num_val_identities: int = 100
    num_test_identities: int = 100
    views_per_identity: int = limits.number_field(12, ge=1)
    target: str = limits.choice_field("same", TARGETS)
    crop: bool | None = None
    render_workers: int | None = limits.number_field(None, ge=0)
    seed: int = limits.seed_field()
