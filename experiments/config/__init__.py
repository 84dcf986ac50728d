"""One dataclass per command: its settings, their types, and the paper's values as defaults. `load` fills one.

A component's options are embedded under its name (`lidb.rank`). What stands flat is the command's own, and the losses
and rates of what it trains (`lr`). A YAML under `configs/` lists only what differs from the defaults; `key=value` words
override both. The paper leaves many values open (learning rates, batch size, widths): those below without a note are
this project's choice.

Source: arXiv 2307.06949, sections 4 and 5.
"""

from importlib import import_module
from typing import Any

from experiments.config.inspect import Inspect
from experiments.config.loading import dotted, is_setting, load

MODULES = ("parts", "people", "training", "measuring")

__all__ = [
    "Ablate",
    "Benchmark",
    "Demo",
    "Evaluate",
    "EvaluationJudges",
    "Export",
    "Generate",
    "Inspect",
    "LoadedPeople",
    "MeasureGate",
    "OnBase",
    "Personalize",
    "PlanRuns",
    "Preoptimize",
    "Prepare",
    "Pretrain",
    "ReadPeople",
    "Readme",
    "RenderFaceworld",
    "Search",
    "TrainBase",
    "Variant",
    "dotted",
    "is_setting",
    "load",
]


def __getattr__(name: str) -> Any:
    """Loads the other schemas on first use: with their options come the networks' libraries."""
    if name in __all__:
        modules = (import_module(f"experiments.config.{module}") for module in MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"experiments.config has no {name!r}; it has {', '.join(__all__)}")
