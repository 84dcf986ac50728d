"""The table of methods: the name of each and how it is built."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hdb.methods.context import MethodContext
from hdb.methods.dreambooth import DreamBooth
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth, MeanTheta, NoHyper, OnlyHyper, SomebodyElse
from hdb.methods.protocol import Method
from hdb.methods.textual_inversion import TextualInversion
from hdb.methods.unpersonalized import Unpersonalized


def _finetuner(context: MethodContext) -> Finetuner:
    return Finetuner(context.training, context.options.finetuning)


def _mean_theta(context: MethodContext) -> Method:
    return MeanTheta(context.training.personalized, context.require_hypernet("mean_theta"))


def _dreambooth_agg1(context: MethodContext) -> Method:
    """DreamBooth with a third of the steps at a higher rate. HyperDreamBooth, section 5.2: "DreamBooth-Agg-1"."""
    return DreamBooth(context.training, context.options.dreambooth_agg1, name="dreambooth_agg1")


def _dreambooth_agg2(context: MethodContext) -> Method:
    """DreamBooth with HyperDreamBooth's 40 steps at a still higher rate. Section 5.2: "DreamBooth-Agg-2"."""
    return DreamBooth(context.training, context.options.dreambooth_agg2, name="dreambooth_agg2")


def _lora_dreambooth(context: MethodContext) -> Method:
    """An ordinary LoRA from zero: `no_hyper` without the LiDB bases, with steps and a rate of its own.

    Source: Ryu, Low-rank Adaptation for Fast Text-to-Image Diffusion Fine-tuning; the paper's "LoRA DreamBooth".
    """
    return NoHyper(Finetuner(context.training, context.options.lora_dreambooth), name="lora_dreambooth")


def _only_hyper(context: MethodContext) -> Method:
    return OnlyHyper(
        context.training.personalized, context.require_hypernet("only_hyper"), dtype=context.training.dtype
    )


def _no_hyper(context: MethodContext) -> Method:
    options = context.options.finetuning
    if context.options.no_hyper_lr is not None:
        options = replace(options, lr=context.options.no_hyper_lr)
    return NoHyper(Finetuner(context.training, options))


def _k1(context: MethodContext) -> Method:
    """HyperDreamBooth with one pass of the decoder. HyperDreamBooth, section 5.3: "k = 1"."""
    return HyperDreamBooth(context.require_hypernet("k1"), _finetuner(context), name="k1", iterations=1)


def _hyperdreambooth(context: MethodContext) -> Method:
    return HyperDreamBooth(context.require_hypernet(OURS), _finetuner(context))


def _somebody_else(context: MethodContext) -> Method | None:
    return SomebodyElse(_finetuner(context), context.subjects / OURS) if context.subjects else None


OURS = "hyperdreambooth"  # the method that all others are compared with
SCALE = ("unpersonalized", "oracle")  # 0 and 1 of normalized scores

# In the order of results. A row returns None if the context has no files or no oracle for it. `somebody_else` reads the
# files of `hyperdreambooth` and so comes after it.
METHODS: dict[str, Callable[[MethodContext], Method | None]] = {
    "unpersonalized": lambda context: Unpersonalized(context.training.personalized),
    "mean_theta": _mean_theta,
    "textual_inversion": lambda context: TextualInversion(context.training, context.options.textual_inversion),
    "dreambooth": lambda context: DreamBooth(context.training, context.options.dreambooth),
    "dreambooth_agg1": _dreambooth_agg1,
    "dreambooth_agg2": _dreambooth_agg2,
    "lora_dreambooth": _lora_dreambooth,
    "only_hyper": _only_hyper,
    "no_hyper": _no_hyper,
    "k1": _k1,
    "hyperdreambooth": _hyperdreambooth,
    "somebody_else": _somebody_else,
    "oracle": lambda context: context.oracle,
}


def methods_named(names: Sequence[str] | None) -> tuple[str, ...]:
    """Method names in the order of the table; None selects all.

    Raises:
        ValueError: An unknown name, or `hyperdreambooth` is missing.
    """
    if names is None:
        return tuple(METHODS)
    check_method_names(names)
    if OURS not in names:
        raise ValueError(f"methods is {', '.join(names)}, expected {OURS} and some of {', '.join(METHODS)}")
    return tuple(method for method in METHODS if method in names)


def check_method_names(names: Sequence[str]) -> None:
    """Raises ValueError if there is no method of one of these names."""
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}, expected some of {', '.join(METHODS)}")


def make_methods(names: Sequence[str], context: MethodContext) -> list[Method]:
    """Builds the named methods, without those that the context has no people or files for.

    Raises:
        ValueError: A method needs a hypernetwork and the context has none.
    """
    methods = [METHODS[name](context) for name in names]
    return [method for method in methods if method is not None]
