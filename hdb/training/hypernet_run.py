"""A whole pretraining: from the first step, or where it was stopped, to the network in a folder and its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from hdb.faces.datamodule import FaceData
from hdb.training.callbacks import LossCurve
from hdb.training.curves import write_curve
from hdb.training.pretrain import HyperNetPretraining


@dataclass
class ScheduleOptions:
    """How long, and what happens how often: `val_every` and `checkpoint_every` count steps.

    `max_minutes` ends a run early, unfinished schedule and all.
    """

    max_steps: int = 100_000
    max_minutes: float | None = None
    val_every: int = 1000
    checkpoint_every: int = 200


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
    saver = ModelCheckpoint(
        dirpath=folder,
        filename=last.stem,
        every_n_train_steps=schedule.checkpoint_every,
        save_on_exception=True,
        enable_version_counter=False,
    )
    own = [saver, LearningRateMonitor(logging_interval="step"), curve]
    fitting = Trainer(
        devices=1,
        max_steps=schedule.max_steps,
        max_time=timedelta(minutes=schedule.max_minutes) if schedule.max_minutes else None,
        val_check_interval=schedule.val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        enable_model_summary=False,
        **(dict(trainer) | {"callbacks": [*own, *trainer.get("callbacks", ())]}),
    )
    fitting.fit(stage, data, ckpt_path=str(last) if resume and last.is_file() else None, weights_only=True)
    fitting.save_checkpoint(last)
    hypernet = stage.hypernet
    hypernet.save(folder / "hypernet", include_encoder=not hypernet.freeze_encoder, dtype=torch.float16)
    (scores,) = fitting.validate(stage, data, verbose=False)
    write_curve(folder, curve.points)
    return {**scores, "step": fitting.global_step}
