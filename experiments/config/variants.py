"""The words of an ablation's variants, checked before the first of them runs."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from experiments.config.loading import dotted, load
from experiments.config.measuring import Ablate, Evaluate
from experiments.config.parts import Variant
from experiments.config.pretraining import Pretrain
from experiments.config.stages import Preoptimize
from hdb.files import write_json
from hdb.methods.table import methods_named

# In what targets and the training that uses them must agree: numbers of people are the same in every world and base.
FITTING = (
    "identifier",
    *(f"base.{field}" for field in ("path", "revision")),
    *(f"lidb.{field}" for field in ("a", "b", "rank", "seed")),
    *(f"faces.{field}" for field in ("source", "root", "splits", "seed")),
)


def places_of(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The folder of each variant.

    Raises:
        ValueError: no folder can be called so, or two variants would have the same.
    """
    places: dict[str, Path] = {}
    for name in names:
        place = name.replace(" ", "-")
        if not place.strip(".") or "/" in place or "\0" in place or len(os.fsencode(place)) > 200:
            raise ValueError(f"a variant is called {name[:60]!r}, expected the name of a folder, at most 200 bytes")
        if folder / place in places.values():
            raise ValueError(f"variant {name!r} and another would share {folder / place}: expected other names")
        places[name] = folder / place
    return places


def plan(name: str, config: Ablate) -> Variant:
    """All words of a variant, YAMLs first; none for `preoptimize` where it needs no targets.

    Raises:
        ValueError: one of its experiments would not take these words; it needs targets and there is no YAML for them,
            or they would not be used or not fit.
    """
    common, variant = config.common, config.variants[name]
    words = Variant(
        pretrain=[config.pretrain, *common.pretrain, *variant.pretrain],
        evaluate=[config.evaluate, *common.evaluate, *variant.evaluate],
    )
    try:
        training = load(Pretrain, words.pretrain)
        methods_named(load(Evaluate, words.evaluate).methods)
    except ValueError as error:
        raise ValueError(f"variant {name!r}: {error}") from None
    if not variant.preoptimize and not (training.beta > 0 and training.thetas is None):
        return words
    if not training.beta > 0:
        given = f"variant {name!r} has words for preoptimize, but beta is {training.beta}"
        raise ValueError(f"{given}: expected beta above 0 among its words for pretrain, else nothing uses its targets")
    if config.preoptimize is None:
        raise ValueError(f"variant {name!r} needs targets, but preoptimize is null; expected the YAML they start from")
    words.preoptimize = [config.preoptimize, *common.preoptimize, *variant.preoptimize]
    fitting = load(Preoptimize, words.preoptimize)
    of_targets, wanted = dotted(fitting), dotted(training)
    for key in FITTING:
        if of_targets[key] != wanted[key]:
            given = f"variant {name!r} has targets of {key} = {of_targets[key]}"
            raise ValueError(f"{given}, expected {wanted[key]} as in pretrain")
    num, wanted = fitting.faces.num_identities, training.faces.num_identities
    if num is not None and (wanted is None or num < wanted):
        raise ValueError(f"variant {name!r} has targets of {num} people, expected {wanted or 'all'} as in pretrain")
    return words


def claim_variant(place: Path, words: Variant) -> Path:
    """The folder of a variant; raises ValueError if it was begun with other changes."""
    record, now = place / "words.json", asdict(words)
    if record.is_file() and (begun := json.loads(record.read_text())) != now:
        raise ValueError(f"{place} was begun with {begun}, now it is {now}: expected another output or name")
    write_json(record, now)
    return place
