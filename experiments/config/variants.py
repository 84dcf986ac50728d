"""The words of an ablation's variants, checked before the first of them runs."""

from experiments.config.loading import dotted, load
from experiments.config.parts import Variant
from experiments.config.stages import Ablate, Evaluate, Preoptimize, Pretrain
from hdb.methods.table import methods_named

# In what targets and the training that uses them must agree: numbers of people are the same in every world and base.
FITTING = (
    *(f"base.{field}" for field in ("path", "revision")),
    *(f"lidb.{field}" for field in ("a", "b", "rank", "seed")),
    *(f"faces.{field}" for field in ("source", "root", "splits", "seed")),
)


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
    training = load(Pretrain, words.pretrain)
    methods_named(load(Evaluate, words.evaluate).methods)
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
