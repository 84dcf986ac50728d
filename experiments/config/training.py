"""The schemas of what trains, and of the pictures that it trains on."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from experiments.config.parts import LoadedPeople, ReadPeople, TrainingOnBase
from hdb.faceworld.base.options import PARTS, MeasureOptions
from hdb.faceworld.splits import SPLITS
from hdb.hypernet.options import HyperNetOptions
from hdb.lidb.options import LiDBOptions
from hdb.limits import number_field, seed_field, texts_field
from hdb.metrics.table import JudgeOptions
from hdb.runs.options import WandbOptions
from hdb.training.options import (
    CacheOptions,
    PreoptimizationOptions,
    PretrainingOptions,
    PreviewOptions,
    ProcessOptions,
    ScheduleOptions,
)


@dataclass
class Preoptimize(PreoptimizationOptions, TrainingOnBase):
    """The best theta of many identities at once, as targets for `Pretrain`: theta shards under `output`.

    `encoder` is a face encoder: predictable.json tells how much of the thetas its embedding of one photo predicts.
    `identifier` is that of `Pretrain`. `identities_per_shard` are fitted together. `checkpoint_every` counts steps.
    """

    output: str = "outputs/preoptimize"
    processes: ProcessOptions = field(default_factory=ProcessOptions)
    wandb: WandbOptions = field(default_factory=WandbOptions)
    identifier: str | None = None
    lidb: LiDBOptions = field(default_factory=LiDBOptions)
    faces: ReadPeople = field(default_factory=ReadPeople)
    identities_per_shard: int = number_field(16, ge=1)
    encoder: str | None = None
    checkpoint_every: int = number_field(50, ge=1)


@dataclass
class Pretrain(PretrainingOptions, TrainingOnBase):
    """The hypernetwork. Paper: alpha times the diffusion loss plus beta times the weight-space loss.

    gamma is the weight of the identity loss, ours: on photographs, or with `identity_styled` on all pictures, at
    timesteps below the share `identity_until`, and at `identity_samples` of a batch at most.

    beta above 0 needs `thetas`, the folder that preoptimize wrote, and frozen bases; `distance` of the weight-space
    loss is that of residuals, or of factors like the paper's. `bases_lr` is of learned bases, null that of `linear_lr`.

    `cached` takes latents and face features of training pictures from beside shards, where `prepare` has put them; of
    faceworld it computes them once, at the start, and keeps them on the device.
    `init_from` is another run's folder, a checkpoint or a hypernetwork's folder to begin from. At each validation the
    people of `preview` are drawn, and scored by the judges. `upload` gives the finished network to W&B as an artifact.

    `identifier` is what the base reads for [V] in every prompt, and travels with the network and all files of people:
    null is [V] as in the paper, which A1111 takes for markup; a rare word of one token, sks say, needs no escaping.
    """

    output: str = "outputs/pretrain"
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    processes: ProcessOptions = field(default_factory=ProcessOptions)
    preview: PreviewOptions = field(default_factory=PreviewOptions)
    wandb: WandbOptions = field(default_factory=WandbOptions)
    identifier: str | None = None
    lidb: LiDBOptions = field(default_factory=LiDBOptions)
    faces: LoadedPeople = field(default_factory=LoadedPeople)
    hypernet: HyperNetOptions = field(default_factory=HyperNetOptions)
    judges: JudgeOptions = field(default_factory=JudgeOptions)
    thetas: str | None = "outputs/preoptimize"
    cached: bool = False
    init_from: str | None = None
    upload: bool = False

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if precision and base, or the losses and the hypernetwork, do not go together."""
        super().check_conflicts(prefix)
        self.check(learn_bases=self.hypernet.learn_bases, freeze_encoder=self.hypernet.freeze_encoder, has_targets=True)
        if self.cached and self.faces.source not in ("shards", "faceworld"):
            raise ValueError(
                "cached=true reads what lies beside shards, or encodes those of faceworld: expected faces.source="
                f"shards or faceworld, not {self.faces.source}"
            )
        if self.cached and not self.hypernet.freeze_encoder:
            raise ValueError("cached=true needs an encoder that stays as it is: expected hypernet.freeze_encoder=true")

    def check_targets(self) -> None:
        """Raises ValueError if targets or validation people are missing. An ablation adds the targets afterwards."""
        self.check(learn_bases=False, freeze_encoder=True, has_targets=self.thetas is not None)
        if self.beta and not any(Path(self.thetas).glob("thetas-*.safetensors")):
            raise ValueError(f"no thetas-*.safetensors in {self.thetas}: run preoptimize first")
        compares_people = self.schedule.best_metric in ("val/own_minus_other", "val/own_better")
        least = 2 if compares_people else 1
        num_val = self.faces.num_val_identities
        if num_val < least:
            raise ValueError(f"faces.num_val_identities is {num_val}, expected at least {least}")


@dataclass
class Prepare:
    """Photos, cropped once, as tar shards in `output`, for faces.source=shards faces.root=<output>.

    `source`, `root`, `splits` and the numbers of people are those of `PeopleOptions`. `min_face` is the smallest face
    in px, `max_turn` the largest yaw in degrees, `margin` the share of the crop's side added all around. `num_workers`
    null takes one process per core, 0 none but this one.

    `cache` names a base and a face encoder whose latents and features of the training pictures are kept beside the
    shards, in half precision, for `faces.source=shards cached=true` of pretraining; later calls may add to them.
    """

    source: str = MISSING
    root: str = MISSING
    output: str = MISSING
    splits: str | None = None
    num_identities: int | None = number_field(None, ge=1)
    num_val_identities: int = number_field(100, ge=0)
    num_test_identities: int = number_field(100, ge=0)
    identities_per_shard: int = number_field(256, ge=1)
    resolution: int = number_field(512, ge=1)
    min_face: int = number_field(64, ge=1)
    max_turn: float = number_field(45.0, gt=0, le=180)
    margin: float = number_field(0.0, ge=0)
    num_workers: int | None = number_field(None, ge=0)
    cache: CacheOptions = field(default_factory=CacheOptions)


@dataclass
class RenderFaceworld:
    """The embedded world as pictures on disk; or one `portrait` (a path) of `identity`.

    `overwrite` true replaces a picture that is no portrait of ours.
    """

    root: str = "data/faceworld"
    resolution: int = 128
    views_per_identity: int = number_field(12, ge=1)
    num_identities: int | None = number_field(None, ge=1)
    splits: list[str] = texts_field(lambda: ["train", "val", "test"])
    num_workers: int = number_field(2, ge=0)
    seed: int = seed_field()
    portrait: str | None = None
    identity: int = number_field(2200, ge=0, le=SPLITS["test"][-1])
    overwrite: bool = False


@dataclass
class TrainBase(MeasureOptions):
    """Trains what is frozen later, part after part, each resumable; `minutes` bounds all of it, null takes steps.

    `pretrain` is the YAML of the hypernetwork that the report tells of, too: its settings, and where its training lies.
    `overwrite` true replaces weights that lie in `weights` and were not trained in `output`.
    """

    pretrain: str = "configs/faceworld/pretrain.yaml"
    parts: list[str] = texts_field(lambda: list(PARTS))
    wandb: WandbOptions = field(default_factory=WandbOptions)
    overwrite: bool = False
