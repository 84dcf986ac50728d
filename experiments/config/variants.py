"""The words of an ablation's variants, checked before the first of them runs."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from experiments.config.loading import dotted, load
from experiments.config.measuring import Ablate, Evaluate
from experiments.config.parts import Variant
from experiments.config.training import Preoptimize, Pretrain
from hdb.files import read_text, write_json
from hdb.methods.table import methods_named

# Settings in which pre-optimized targets and the training that uses them must agree. The numbers of people are the same
# in every world and base.
SHARED_WITH_TARGETS = (
    "identifier",
    *(f"base.{name}" for name in ("path", "revision")),
    *(f"lidb.{name}" for name in ("a", "b", "rank", "seed")),
    *(f"faces.{name}" for name in ("source", "root", "splits", "seed")),
)


def variant_folders(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The folder of each variant.

    Raises:
        ValueError: a name cannot be that of a folder, or two variants would have the same.
    """
    folders: dict[str, Path] = {}
    for name in names:
        folder_name = name.replace(" ", "-")
        is_valid = folder_name.strip(".") and "/" not in folder_name and "\0" not in folder_name
        if not is_valid or len(os.fsencode(folder_name)) > 200:
            raise ValueError(f"a variant is called {name[:60]!r}, expected the name of a folder, at most 200 bytes")
        if folder / folder_name in folders.values():
            raise ValueError(f"variant {name!r} and another would share {folder / folder_name}: expected other names")
        folders[name] = folder / folder_name
    return folders


def plan_variant(name: str, config: Ablate) -> Variant:
    """All words of a variant, YAMLs first; no words for `preoptimize` where it needs no targets.

    Raises:
        ValueError: one of its commands would not take these words; it needs targets and there is no YAML for them; or
            its targets would not be used or not fit.
    """
    common = config.common
    variant = config.variants[name]
    words = Variant(
        pretrain=[config.pretrain, *common.pretrain, *variant.pretrain],
        evaluate=[config.evaluate, *common.evaluate, *variant.evaluate],
    )
    try:
        pretrain = load(Pretrain, words.pretrain)
        methods_named(load(Evaluate, words.evaluate).methods.names)
    except ValueError as error:
        raise ValueError(f"variant {name!r}: {error}") from None
    needs_targets = pretrain.beta > 0 and pretrain.thetas is None
    if not variant.preoptimize and not needs_targets:
        return words
    if not pretrain.beta > 0:
        raise ValueError(
            f"variant {name!r} has words for preoptimize, but beta is {pretrain.beta}: expected beta above 0 among its "
            "words for pretrain, else nothing uses its targets"
        )
    if config.preoptimize is None:
        raise ValueError(f"variant {name!r} needs targets, but preoptimize is null; expected the YAML they start from")
    words.preoptimize = [config.preoptimize, *common.preoptimize, *variant.preoptimize]
    _check_targets_fit(name, load(Preoptimize, words.preoptimize), pretrain)
    return words


def claim_variant(folder: Path, words: Variant) -> None:
    """Records the words of a variant in its folder; raises ValueError if it was begun with others."""
    record = folder / "words.json"
    content = asdict(words)
    if record.is_file():
        previous = json.loads(read_text(record))
        if previous != content:
            raise ValueError(
                f"{folder} was begun with {previous}, now it is {content}: expected another output or name"
            )
    write_json(record, content)


def _check_targets_fit(name: str, preoptimize: Preoptimize, pretrain: Pretrain) -> None:
    of_targets = dotted(preoptimize)
    of_training = dotted(pretrain)
    for key in SHARED_WITH_TARGETS:
        if of_targets[key] != of_training[key]:
            raise ValueError(
                f"variant {name!r} has targets of {key} = {of_targets[key]}, expected {of_training[key]} as in pretrain"
            )
    num_targets = preoptimize.faces.num_identities
    num_people = pretrain.faces.num_identities
    if num_targets is not None and (num_people is None or num_targets < num_people):
        raise ValueError(
            f"variant {name!r} has targets of {num_targets} people, expected {num_people or 'all'} as in pretrain"
        )
