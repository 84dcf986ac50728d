"""The list of methods, in the order of the table, and how each is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hdb.faceworld.world import FaceWorld
from hdb.hypernet.hypernet import HyperNet
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth, MeanTheta, NoHyper, OnlyHyper
from hdb.methods.oracle import Oracle
from hdb.methods.protocol import Method
from hdb.methods.unpersonalized import Unpersonalized


@dataclass(frozen=True)
class Means:
    """What methods are made of.

    Args:
        no_hyper_lr: rate of finetuning from zero; None is that of `finetuner`.
        world: that the people are of, if they are of one.
    """

    hypernet: HyperNet
    finetuner: Finetuner
    no_hyper_lr: float | None = None
    world: FaceWorld | None = None


def _no_hyper(means: Means) -> NoHyper:
    options = means.finetuner.options
    lr = options.lr if means.no_hyper_lr is None else means.no_hyper_lr
    return NoHyper(replace(means.finetuner, options=replace(options, lr=lr)))


# None where the means do not have what a method needs. The first knows nothing of the person, the last is the truth.
METHODS: dict[str, Callable[[Means], Method | None]] = {
    "unpersonalized": lambda means: Unpersonalized(means.finetuner.personalized),
    "mean_theta": lambda means: MeanTheta(means.finetuner.personalized, means.hypernet),
    "only_hyper": lambda means: OnlyHyper(means.finetuner.personalized, means.hypernet, dtype=means.finetuner.dtype),
    "no_hyper": _no_hyper,
    "hyperdreambooth": lambda means: HyperDreamBooth(means.hypernet, means.finetuner),
    "oracle": lambda means: Oracle(means.world) if means.world else None,
}
OURS = "hyperdreambooth"  # what all others are compared with
SCALE = ("unpersonalized", "oracle")  # 0 and 1 of normalized scores


def methods_named(names: Sequence[str] | None) -> tuple[str, ...]:
    """These methods in the order of the table; None is all of them.

    Raises:
        ValueError: an unknown one, or ours is not among them.
    """
    if names is None:
        return tuple(METHODS)
    if (unknown := sorted(set(names) - set(METHODS))) or OURS not in names:
        problem = f"unknown method {unknown[0]!r}" if unknown else f"methods is {', '.join(names)}"
        raise ValueError(f"{problem}, expected {OURS} and some of {', '.join(METHODS)} to compare it with")
    return tuple(method for method in METHODS if method in names)


def make_methods(names: Sequence[str], means: Means) -> list[Method]:
    """Those of the methods that the means allow."""
    made = [METHODS[name](means) for name in names]
    return [method for method in made if method is not None]
