"""One dataclass per command: its settings, their types, and the paper's values as defaults. `load` fills one.

A component's options are embedded under its name (`lidb.rank`). What stands flat is the command's own, and the losses
and rates of what it trains (`lr`). A YAML under `configs/` lists only what differs from the defaults; `key=value` words
override both. The paper leaves many values open (learning rates, batch size, widths): those below without a note are
this project's choice.

No torch is loaded here: a wrong word is refused at once.

Source: arXiv 2307.06949, sections 4 and 5.
"""

from experiments.config.loading import dotted, is_setting, load
from experiments.config.measuring import Ablate, Benchmark, Evaluate, Gpu, MeasureGate, PlanRuns, Readme, Search
from experiments.config.parts import EvaluationJudges, LoadedPeople, OnBase, ReadPeople, Variant
from experiments.config.people import Demo, Export, Generate, Inspect, Personalize
from experiments.config.training import Preoptimize, Prepare, Pretrain, RenderFaceworld, TrainBase

__all__ = [
    "Ablate",
    "Benchmark",
    "Demo",
    "Evaluate",
    "EvaluationJudges",
    "Export",
    "Generate",
    "Gpu",
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
