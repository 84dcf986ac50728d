"""A whole pretraining: from the first step, or where it was stopped, to the network in a folder and its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar

from hdb.faces.datamodule import FaceData
from hdb.limits import above, between
from hdb.training.callbacks import LossCurve
from hdb.training.checkpoints import WholeCheckpoints, readable, saver
from hdb.training.curves import write_curve
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.stopping import WholeSteps

LOOK_EVERY = 10  # steps: to look at a number is to wait for the device


@dataclass
class ScheduleOptions:
    """How long, and what happens how often: `val_every` and `checkpoint_every` count steps.

    `max_minutes` ends a run early, unfinished schedule and all.
    """

    max_steps: int = between(100_000, 1)
    max_minutes: float | None = above(None, 0)
    val_every: int = between(1000, 1)
    checkpoint_every: int = between(200, 1)


def fit_hypernet(
    stage: HyperNetPretraining,
    data: FaceData,
    folder: Path,
    *,
    schedule: ScheduleOptions,
    trainer: Mapping[str, Any],
    resume: bool,
) -> dict[str, float]:
    """Writes last.ckpt, hypernet/ and curve.json; returns the scores of the last validation, and the last step.

    Args:
        trainer: further arguments of the Trainer: accelerator, precision, logger, callbacks beside those of
            the run itself.
        resume: from last.ckpt, where there is one.
    """
    last, curve = folder / "last.ckpt", LossCurve()
    rates = LearningRateMonitor(logging_interval="step")
    bar = TQDMProgressBar(refresh_rate=LOOK_EVERY)
    own = [saver(last, every=schedule.checkpoint_every), rates, curve, WholeSteps(), bar]
    fitting = Trainer(
        devices=1,
        max_steps=schedule.max_steps,
        max_time=timedelta(minutes=schedule.max_minutes) if schedule.max_minutes else None,
        val_check_interval=schedule.val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=LOOK_EVERY,
        enable_model_summary=False,
        plugins=[WholeCheckpoints()],
        **(dict(trainer) | {"callbacks": [*own, *trainer.get("callbacks", ())]}),
    )
    fitting.fit(stage, data, ckpt_path=readable(last) if resume else None, weights_only=True)
    fitting.save_checkpoint(last)
    hypernet = stage.hypernet
    hypernet.save(folder / "hypernet", include_encoder=not hypernet.freeze_encoder, dtype=torch.float16)
    (scores,) = fitting.validate(stage, data, verbose=False)
    write_curve(folder, curve.points)
    return {**scores, "step": fitting.global_step}
