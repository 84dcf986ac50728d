"""One dataclass per experiment: its fields, their types, and the paper's values as defaults. `load` fills one in.

A YAML under `configs/` lists only what differs from the defaults here; `key=value` words override both. The paper
leaves many values open (learning rates, batch size, widths): those below without a note are this project's choice.

Source: arXiv 2307.06949, sections 4 and 5.
"""

from experiments.config.loading import dotted, knows, load
from experiments.config.parts import EvaluationJudges, LoadedPeople, Logged, OnBase, ReadPeople, Variant, Wandb
from experiments.config.pretraining import Pretrain
from experiments.config.stages import (
    Ablate,
    Benchmark,
    Evaluate,
    Export,
    Generate,
    Inspect,
    Personalize,
    PlanRuns,
    Preoptimize,
    Prepare,
    Readme,
    RenderFaceworld,
    Search,
    TrainBase,
)

__all__ = [
    "Ablate",
    "Benchmark",
    "Evaluate",
    "EvaluationJudges",
    "Export",
    "Generate",
    "Inspect",
    "LoadedPeople",
    "Logged",
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
