"""The schema of pretraining."""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.config.parts import LoadedPeople, Logged
from hdb.hypernet.options import HyperNetOptions
from hdb.hypernet.trained import check_networks_exist, resolve_checkpoint
from hdb.lidb.layout import LiDBOptions
from hdb.metrics.table import JudgeOptions
from hdb.training.callbacks import PreviewOptions
from hdb.training.hypernet_run import ScheduleOptions
from hdb.training.pretraining_options import PretrainingOptions
from hdb.training.ranks import ProcessOptions


@dataclass
class Pretrain(PretrainingOptions, ScheduleOptions, PreviewOptions, ProcessOptions, Logged):
    """The hypernetwork. Paper: alpha times the diffusion loss plus beta times the weight-space loss.

    gamma is the weight of the identity loss, ours: on photographs, or with `identity_styled` on all pictures, at
    timesteps below the share `identity_until`, and at `identity_samples` of a batch at most.

    beta above 0 needs `thetas`, the folder that preoptimize wrote, and frozen bases; `distance` of the weight-space
    loss is that of residuals, or of factors like the paper's. `bases_lr` is of learned bases, null that of `linear_lr`.
    `max_minutes` ends a run early, unfinished schedule and all. `val_every` and `checkpoint_every` count steps.

    `cached` takes latents and face features of training pictures from beside shards, where `prepare` has put them.
    `init_from` is another run's folder, a checkpoint or a hypernetwork's folder to begin from. At each validation
    `num_preview_identities` people are drawn for each of `preview_prompts`, and scored by the judges; `sampling` is of
    these pictures. `best_metric` (val/face_rec, ...) keeps best.ckpt beside the last, `ema_decay` averages the weights,
    `upload` gives the finished network to W&B as an artifact.

    `identifier` is what the base reads for [V] in every prompt, and travels with the network and all files of people:
    null is [V] as in the paper, which A1111 takes for markup; a rare word of one token, sks say, needs no escaping.
    """

    output: str = "outputs/pretrain"
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
        net = self.hypernet
        self.check(learn_bases=net.learn_bases, freeze_encoder=net.freeze_encoder, has_targets=True)
        if self.cached and self.faces.source != "shards":
            raise ValueError(
                f"cached=true reads what lies beside shards: expected faces.source=shards, not {self.faces.source}"
            )
        if self.cached and not net.freeze_encoder:
            raise ValueError("cached=true needs an encoder that stays as it is: expected hypernet.freeze_encoder=true")

    def refuse_missing(self) -> None:
        """Raises ValueError if targets or networks are not there; an ablation adds the targets to its words later."""
        self.check(learn_bases=False, freeze_encoder=True, has_targets=self.thetas is not None)
        if self.beta and not any(Path(self.thetas).glob("thetas-*.safetensors")):
            raise ValueError(f"no thetas-*.safetensors in {self.thetas}: run preoptimize first")
        least = 1 + (self.best_metric in ("val/own_minus_other", "val/own_better"))  # which compare people
        if self.faces.num_val_identities < least:
            raise ValueError(f"faces.num_val_identities is {self.faces.num_val_identities}, expected at least {least}")
        begun = self.init_from and resolve_checkpoint(self.init_from)
        check_networks_exist(hypernet=begun, encoder=self.hypernet.encoder)
        self.judges.refuse_missing()
