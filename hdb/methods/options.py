"""Options of the methods, in a file without torch so that commands check their settings at once."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from hdb.limits import number_field
from hdb.training.options import DreamBoothOptions, FinetuningOptions, TextualInversionOptions


def _lora_dreambooth_options() -> FinetuningOptions:
    """A free LoRA of rank 4 with one draw per step; steps and rate of diffusers' example."""
    return FinetuningOptions(basis="free", rank=4, num_steps=500, lr=1e-4, batch_size=1)


@dataclass
class MethodOptions:
    """How each method trains. Steps are the paper's, which leaves the rates open; `experiments.search` finds those.

    `names` are those of the methods to compare; null takes all that the source of people has an answer for.
    `finetuning` is used by HyperDreamBooth and its ablations. `no_hyper_lr` is the rate of `no_hyper`; null takes that
    of `finetuning`, with which it stays below its best.
    """

    names: list[str] | None = None
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    no_hyper_lr: float | None = number_field(None, gt=0)
    lora_dreambooth: FinetuningOptions = field(default_factory=_lora_dreambooth_options)
    dreambooth: DreamBoothOptions = field(default_factory=DreamBoothOptions)
    dreambooth_agg1: DreamBoothOptions = field(default_factory=lambda: DreamBoothOptions(num_steps=400, lr=1e-5))
    dreambooth_agg2: DreamBoothOptions = field(default_factory=lambda: DreamBoothOptions(num_steps=40, lr=5e-5))
    textual_inversion: TextualInversionOptions = field(default_factory=TextualInversionOptions)

    def settings(self) -> dict[str, Any]:
        """All settings but `names`, with those of a method nested under its name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "names"}
        return {name: asdict(value) if is_dataclass(value) else value for name, value in values.items()}
