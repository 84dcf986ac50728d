"""What several experiments have in common and no room of hdb owns: the machine, the log, more of people and judges."""

from dataclasses import dataclass, field

from hdb.diffusion.base import MEMORY, BaseOptions
from hdb.diffusion.sampling import SamplingOptions
from hdb.faces.people import PeopleOptions
from hdb.limits import choice_field, number_field, seed_field
from hdb.metrics.table import JudgeOptions
from hdb.prompts import INSTANCE_PROMPT
from hdb.runs.logger import MODES
from hdb.training.device import accelerator_field, check_precision, precision_field

PHOTO = f"a photo of {INSTANCE_PROMPT}"


@dataclass
class Wandb:
    """The run's place in Weights & Biases; null leaves a setting to its environment variables.

    Without those, `project` is hdb and `mode` online if there is a login, else offline. `name` is that of the run.
    """

    project: str | None = None
    name: str | None = None
    mode: str | None = choice_field(None, MODES)


@dataclass
class PersonalWandb(Wandb):
    """The same for a person's photo: losses, times and sizes are logged, and nothing that tells who it is.

    `share_subject` true adds pictures, names and the file itself.
    """

    share_subject: bool = False


@dataclass
class OnBase:
    """What works on a base. `memory` low recomputes activations in backward: slower, with the same result.

    `accelerator` is where to work. `seed` is that of everything random.
    """

    base: BaseOptions = field(default_factory=BaseOptions)
    accelerator: str = accelerator_field()
    memory: str = choice_field("normal", MEMORY)
    seed: int = seed_field()


@dataclass
class Training(OnBase):
    """What trains on a base. `precision` is that of the arithmetic, by a Trainer's name."""

    precision: str = precision_field()

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if gradients would not survive in such a base."""
        check_precision(self.precision, self.base.dtype)


@dataclass
class Logged(Training):
    """What trains on a base and is logged."""

    wandb: Wandb = field(default_factory=Wandb)


@dataclass
class Drawing(Logged):
    """What also draws pictures."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)


@dataclass
class ReadPeople(PeopleOptions):
    """Where people come from; `num_workers` processes read and crop them, 0 is the main process."""

    num_workers: int = number_field(0, ge=0)


@dataclass
class LoadedPeople(ReadPeople):
    """Where people come from, and how many are in a batch."""

    batch_size: int = number_field(8, ge=1)


@dataclass
class EvaluationJudges(JudgeOptions):
    """Who scores pictures; `classifier` says what one shows, where prompts are captions of faceworld."""

    classifier: str | None = None


@dataclass
class Variant:
    """Words that a row of an ablation adds to those of its experiments."""

    pretrain: list[str] = field(default_factory=list)
    evaluate: list[str] = field(default_factory=list)
    preoptimize: list[str] = field(default_factory=list)
