"""One dataclass per experiment: its fields, their types, and the paper's values as defaults. `load` fills one in.

A YAML under `configs/` lists only what differs from the defaults here; `key=value` words override both. The paper
leaves many values open (learning rates, batch size, widths): those below without a note are this project's choice.

Source: arXiv 2307.06949, sections 4 and 5.
"""

from importlib import import_module
from typing import Any

from experiments.config.inspection import Inspect
from experiments.config.loading import dotted, knows, load

PLACES = ("parts", "pretraining", "measuring", "stages")

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
    "Logged",
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
    "Wandb",
    "dotted",
    "knows",
    "load",
]


def __getattr__(name: str) -> Any:
    """All others on first use: with them come the networks' libraries, which the shortest commands do without."""
    if name in __all__:
        modules = (import_module(f"experiments.config.{of}") for of in PLACES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"experiments.config has no {name!r}; it has {', '.join(__all__)}")
