"""The list of methods, in the order of the table, and how each is made."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hdb.hypernet.hypernet import HyperNet
from hdb.limits import number_field
from hdb.methods.dreambooth import DreamBooth, DreamBoothAgg1, DreamBoothAgg2
from hdb.methods.hyperdreambooth import (
    Finetuner,
    HyperDreamBooth,
    MeanTheta,
    NoHyper,
    OneIteration,
    OnlyHyper,
    SomebodyElse,
)
from hdb.methods.lora import LoRADreamBooth, lora_options
from hdb.methods.protocol import Method
from hdb.methods.studio import Studio
from hdb.methods.textual_inversion import TextualInversion
from hdb.methods.unpersonalized import Unpersonalized
from hdb.training.dreambooth import DreamBoothOptions
from hdb.training.personalize import FinetuningOptions
from hdb.training.textual_inversion import TextualInversionOptions


@dataclass
class MethodOptions:
    """How each method trains. Steps are the paper's, rates are open there; `experiments.search` finds those of a base.

    `finetuning` is of ours and its ablations; `no_hyper_lr` is the rate of finetuning from zero, null that of
    `finetuning`, at which it would look worse than it is.
    """

    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    no_hyper_lr: float | None = number_field(None, gt=0)
    lora_dreambooth: FinetuningOptions = field(default_factory=lora_options)
    dreambooth: DreamBoothOptions = field(default_factory=DreamBoothOptions)
    dreambooth_agg1: DreamBoothOptions = field(default_factory=lambda: DreamBoothOptions(num_steps=400, lr=1e-5))
    dreambooth_agg2: DreamBoothOptions = field(default_factory=lambda: DreamBoothOptions(num_steps=40, lr=5e-5))
    textual_inversion: TextualInversionOptions = field(default_factory=TextualInversionOptions)

    def settings(self) -> dict[str, Any]:
        """Every setting here by its name, those of a method together."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(MethodOptions)}
        return {name: asdict(value) if is_dataclass(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class Means:
    """What methods are made of.

    Args:
        oracle: draws the true answers, where the source of people has them.
        subjects: folder with a folder of files for each method, if there is one.
    """

    hypernet: HyperNet
    studio: Studio
    options: MethodOptions = field(default_factory=MethodOptions)
    oracle: Method | None = None
    subjects: Path | None = None

    @property
    def finetuner(self) -> Finetuner:
        return Finetuner(self.studio, self.options.finetuning)

    @property
    def from_zero(self) -> Finetuner:
        options, lr = self.options.finetuning, self.options.no_hyper_lr
        return Finetuner(self.studio, options if lr is None else replace(options, lr=lr))


# None where the means do not have what a method needs. The first knows nothing of the person, the last is the truth;
# whoever looks at another one's files comes after it.
METHODS: dict[str, Callable[[Means], Method | None]] = {
    "unpersonalized": lambda means: Unpersonalized(means.studio.personalized),
    "mean_theta": lambda means: MeanTheta(means.studio.personalized, means.hypernet),
    "textual_inversion": lambda means: TextualInversion(means.studio, means.options.textual_inversion),
    "dreambooth": lambda means: DreamBooth(means.studio, means.options.dreambooth),
    "dreambooth_agg1": lambda means: DreamBoothAgg1(means.studio, means.options.dreambooth_agg1),
    "dreambooth_agg2": lambda means: DreamBoothAgg2(means.studio, means.options.dreambooth_agg2),
    "lora_dreambooth": lambda means: LoRADreamBooth(Finetuner(means.studio, means.options.lora_dreambooth)),
    "only_hyper": lambda means: OnlyHyper(means.studio.personalized, means.hypernet, dtype=means.studio.dtype),
    "no_hyper": lambda means: NoHyper(means.from_zero),
    "k1": lambda means: OneIteration(means.hypernet, means.finetuner),
    "hyperdreambooth": lambda means: HyperDreamBooth(means.hypernet, means.finetuner),
    "somebody_else": lambda means: SomebodyElse(means.finetuner, means.subjects / OURS) if means.subjects else None,
    "oracle": lambda means: means.oracle,
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
