"""The schemas of what measures: evaluations, searches, ablations, costs."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.config.parts import PHOTO_PROMPT, EvaluationJudges, TrainingOnBase, Variant
from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.options import ProtocolOptions, RateOptions, WorkloadOptions
from hdb.faces.options import PeopleOptions
from hdb.limits import choice_field, number_field, seed_field, texts_field
from hdb.methods.options import MethodOptions
from hdb.metrics.table import JudgeOptions
from hdb.prompts import INSTANCE_PROMPT
from hdb.runs.options import WandbOptions
from hdb.training.options import FinetuningOptions, ProcessOptions, accelerator_field

GPU_PARTS = ("tests", "benchmark", "portrait", "personalize", "generate", "evaluate", "pretrain", "base")


@dataclass
class Evaluate(TrainingOnBase):
    """Every method on the same unseen people. Paper: 100 identities, 30 prompts, 10 pictures each.

    `hypernet` null takes the newest of `make train`, else the shipped one; best takes the best run of the newest sweep.
    `encoder` is the face encoder that it was trained with, where its file does not hold that. `instance_prompt` is what
    the photos are learned under. `dtype` of the files is float32 or float16. `searches` is the folder of what
    `experiments.search` found, if it is there: settings for the plot.
    """

    output: str = "outputs/eval"
    protocol: ProtocolOptions = field(default_factory=ProtocolOptions)
    methods: MethodOptions = field(default_factory=MethodOptions)
    processes: ProcessOptions = field(default_factory=ProcessOptions)
    wandb: WandbOptions = field(default_factory=WandbOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    judges: EvaluationJudges = field(default_factory=EvaluationJudges)
    faces: PeopleOptions = field(default_factory=PeopleOptions)
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    dtype: str = "float32"
    searches: str = "outputs/search"


@dataclass
class Search(TrainingOnBase):
    """The rate of each method, and its number of steps, on validation people: pictures and scores of every setting.

    `grids` is method -> setting -> its values, every combination of which is tried:
    `dreambooth: {methods.dreambooth.lr: [1e-5, 3e-5]}`. `methods.names` null searches for all that have a grid.
    `clip_t_within` is how far clip_t may fall below the unpersonalized base's for a setting to keep the prompt. All
    other settings are those of `Evaluate`.
    """

    output: str = "outputs/search"
    protocol: ProtocolOptions = field(default_factory=ProtocolOptions)
    methods: MethodOptions = field(default_factory=MethodOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    judges: JudgeOptions = field(default_factory=JudgeOptions)
    faces: PeopleOptions = field(default_factory=PeopleOptions)
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    dtype: str = "float32"
    grids: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    clip_t_within: float = number_field(0.02, ge=0)


@dataclass
class MeasureGate(TrainingOnBase):
    """What the quality gate of a hypernetwork compares people with: unseen people, personalized as a user would be.

    `split` val writes gate.json beside the hypernetwork, test says how well the gate tells good from bad and writes
    nothing; the truth is then `recognizer` and other photos of the same people. `foreign` is a folder of photos that
    are none of the base's world, which test tells from those of the people. `num_identities` are measured,
    `subjects_per_batch` of them together. All other settings are those of `Personalize`, and should be as they are
    there.
    """

    split: str = choice_field("val", ("val", "test"))
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    faces: PeopleOptions = field(default_factory=PeopleOptions)
    num_identities: int = number_field(100, ge=5)
    subjects_per_batch: int = number_field(1, ge=1)
    hypernet: str | None = None
    encoder: str | None = None
    recognizer: str = "vggface2"
    foreign: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    prompts: list[str] = texts_field(lambda: [PHOTO_PROMPT] * 4)

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError for foreign photos where none are compared.

        Args:
            prefix: Put before the names of settings, as in `check_limits`.
        """
        super().check_conflicts(prefix)
        if self.foreign is not None and self.split == "val":
            raise ValueError(
                f"{prefix}foreign is {self.foreign} with {prefix}split=val, which compares no photos: expected "
                f"{prefix}split=test"
            )


@dataclass
class Ablate:
    """Hypernetworks and evaluations with some settings changed: `variants` are name -> words for both commands.

    `pretrain` and `evaluate` are the YAMLs they start from, `common` the words of all; `preoptimize` is the YAML of
    targets, for variants that need them: those with words for it, or with beta above 0 and no thetas.
    """

    output: str = "outputs/ablations"
    pretrain: str = MISSING
    evaluate: str = MISSING
    preoptimize: str | None = None
    common: Variant = field(default_factory=Variant)
    variants: dict[str, Variant] = field(default_factory=dict)


@dataclass
class Benchmark(WorkloadOptions):
    """What the stages cost on this machine, and two ratios; a base and a hypernetwork of random weights will do.

    `base` is a base, a folder of configs alone (unet.json, ...), or sd15-config, which is configs/sd15. `dtype` is its
    own, `batch_size` that of pretraining. A ratio compares runs of `num_steps` steps in `num_pairs` pairs.
    `num_method_steps` steps of other methods are measured beside ours, 0 leaves that table out.
    """

    output: str = "outputs/benchmark"
    num_residuals: int = number_field(8, ge=1)
    num_people: int = number_field(16, ge=1)
    num_repeats: int = number_field(3, ge=1)
    num_pairs: int = number_field(7, ge=1)
    num_method_steps: int = number_field(0, ge=0)
    seed: int = seed_field()


@dataclass
class Gpu:
    """What only a GPU can show, one part after the other: tests, costs, and the commands as a user types them.

    A part that fails does not keep the next from running, and `minutes` ends them all. `accelerator` is that of all
    parts. The words of each command may be changed: `tests` are pytest's, `benchmark`, `personalize`, `generate`,
    `evaluate`, `pretrain` and `base` those of these commands. `parts` are those to run.
    """

    output: str = "outputs/gpu"
    minutes: float = number_field(6.0, gt=0)
    accelerator: str = accelerator_field("gpu")
    parts: list[str] = texts_field(lambda: list(GPU_PARTS))
    tests: list[str] = texts_field(
        lambda: ["-m", "gpu", "tests/test_devices.py", "tests/training/test_graphed_step.py"]
    )
    benchmark: list[str] = texts_field(
        lambda: ["configs/sd15/benchmark.yaml", "num_method_steps=12", "num_repeats=2", "num_pairs=2", "num_steps=5"]
    )
    personalize: list[str] = field(default_factory=list)
    generate: list[str] = field(default_factory=list)
    evaluate: list[str] = texts_field(
        lambda: [
            "configs/faceworld/evaluate.yaml",
            "protocol.num_identities=2",
            "protocol.num_gallery=2",
            "protocol.num_prompts=2",
            "protocol.num_pictures=1",
            "protocol.num_references=2",
            "methods.names=[unpersonalized,only_hyper,hyperdreambooth]",
        ]
    )
    pretrain: list[str] = texts_field(
        lambda: [
            "configs/faceworld/pretrain.yaml",
            "cached=true",
            "schedule.max_steps=50",
            "schedule.val_every=50",
            "faces.num_identities=64",
            "faces.num_val_identities=8",
            "preview.num_identities=4",
        ]
    )
    base: list[str] = texts_field(  # two steps of what the denoiser needs, then the rate of the denoiser
        lambda: [
            "configs/faceworld/base.yaml",
            "parts=[autoencoder,text,denoiser]",
            "autoencoder.steps=2",
            "text.steps=2",
            "denoiser.steps=110",
            "precision=bf16-mixed",
            "num_identities=60",
            "num_workers=14",
        ]
    )

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if `parts` names one that does not exist.

        Args:
            prefix: Put before the names of settings, as in `check_limits`.
        """
        for part in self.parts:
            if part not in GPU_PARTS:
                raise ValueError(f"{prefix}parts has {part!r}, expected some of {', '.join(GPU_PARTS)}")


@dataclass
class PlanRuns(RateOptions):
    """What runs will take before they start. All other words are of the runs, each for those that have such a setting.

    `device` h100, a100 or 4090 is assumed to reach the share `utilization` of its data sheet, `this` is measured;
    `tflops` a second says it outright, `results` of a benchmark what was measured.
    """


@dataclass
class Readme:
    """The tables of the files in `readme`, each between two marks that name a file of results.

    `results` is the folder of an evaluation: its results.json becomes `kept`, and its `picture` is put beside it under
    the same name.
    """

    readme: list[str] = texts_field(lambda: ["README.md", "docs/results.md"])
    results: str | None = None
    picture: str = "people.jpg"
    kept: str = "hdb/faceworld/weights/eval.json"
