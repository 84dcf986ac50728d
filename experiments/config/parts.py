"""Parts of several schemas that no room of hdb owns: the machine, people as they are read, judges of an evaluation."""

from dataclasses import dataclass, field

from hdb.diffusion.options import CUDA_GRAPH, MEMORY, BaseOptions
from hdb.faces.options import PeopleOptions
from hdb.limits import choice_field, number_field, seed_field
from hdb.metrics.table import JudgeOptions
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.options import accelerator_field, check_precision, precision_field

PHOTO_PROMPT = f"a photo of {INSTANCE_PROMPT}"


@dataclass
class OnBase:
    """What works on a base. `memory` low recomputes activations in backward: slower, with the same result.

    `cuda_graph` auto has CUDA graphs start the kernels of each step where that is possible, true makes it an error
    where it is not, false starts them one by one.

    `accelerator` is where to work. `seed` is that of everything random.
    """

    base: BaseOptions = field(default_factory=BaseOptions)
    accelerator: str = accelerator_field()
    memory: str = choice_field("normal", MEMORY)
    cuda_graph: str = choice_field("auto", CUDA_GRAPH)
    seed: int = seed_field()


@dataclass
class TrainingOnBase(OnBase):
    """What trains on a base. `precision` is that of the arithmetic, by a Trainer's name."""

    precision: str = precision_field()

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if gradients would not survive in such a base."""
        check_precision(self.precision, self.base.dtype)


@dataclass
class ReadPeople(PeopleOptions):
    """Where people come from; `num_workers` processes read and crop them, 0 is the main process."""

    num_workers: int = number_field(0, ge=0)


@dataclass
class LoadedPeople(ReadPeople):
    """Where people come from, and how many are in a batch: `batch_size`."""

    batch_size: int = number_field(8, ge=1)


@dataclass
class EvaluationJudges(JudgeOptions):
    """Who scores pictures; `classifier` says what one shows, where prompts are captions of faceworld."""

    classifier: str | None = None


@dataclass
class Variant:
    """Words that a row of an ablation adds to those of its commands."""

    pretrain: list[str] = field(default_factory=list)
    evaluate: list[str] = field(default_factory=list)
    preoptimize: list[str] = field(default_factory=list)
