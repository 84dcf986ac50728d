"""A whole pretraining run, from the first step or a checkpoint to the saved network and its scores."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor

from hdb.faces.datamodule import FaceData
from hdb.training.averaging import AveragedWeights
from hdb.training.callbacks import LossCurve, StepProgressBar
from hdb.training.checkpoints import (
    AtomicCheckpointIO,
    best_checkpoint_callback,
    find_checkpoint,
    last_checkpoint_callback,
)
from hdb.training.curves import write_curve
from hdb.training.options import METRIC_MODES, ScheduleOptions
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.ranks import broadcast_from_rank_zero, is_rank_zero
from hdb.training.stopping import StopBetweenSteps

LOG_EVERY = 10  # steps; reading a number waits for the device


def fit_hypernet(
    stage: HyperNetPretraining,
    data: FaceData,
    folder: Path,
    *,
    schedule: ScheduleOptions,
    trainer: Mapping[str, Any],
    resume: bool,
) -> dict[str, float]:
    """Trains a hypernetwork and writes last.ckpt, hypernet/ and curve.json, with `best_metric` also best.ckpt.

    Args:
        trainer: Further arguments of the Trainer: accelerator, devices, precision, logger, additional callbacks.
        resume: Continue from last.ckpt, if there is one.

    Returns:
        The validation scores after the last step, its number as `step`, and with `best_metric` its best value as
        `best`.
    """
    last = folder / "last.ckpt"
    trainer_args = dict(trainer)
    curve = LossCurve()
    callbacks = [
        last_checkpoint_callback(last, every=schedule.checkpoint_every),
        LearningRateMonitor(logging_interval="step"),
        curve,
        StopBetweenSteps(),
    ]
    if trainer_args.pop("enable_progress_bar", True):
        callbacks.append(StepProgressBar())
    average = None
    if schedule.ema_decay is not None:
        average = AveragedWeights(decay=schedule.ema_decay)
        callbacks.append(average)
    best = None
    if schedule.best_metric is not None:
        best = best_checkpoint_callback(
            folder / "best.ckpt", metric=schedule.best_metric, mode=METRIC_MODES[schedule.best_metric]
        )
        callbacks.append(best)
    callbacks += trainer_args.pop("callbacks", ())
    hypernet_trainer = Trainer(
        max_steps=schedule.max_steps,
        max_time=timedelta(minutes=schedule.max_minutes) if schedule.max_minutes else None,
        accumulate_grad_batches=schedule.accumulate_grad_batches,
        val_check_interval=schedule.val_every * schedule.accumulate_grad_batches,  # Lightning counts batches
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=LOG_EVERY,
        enable_model_summary=False,
        enable_progress_bar=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        **trainer_args,
    )
    checkpoint = broadcast_from_rank_zero(lambda: find_checkpoint(last) if resume else None)
    hypernet_trainer.fit(stage, data, ckpt_path=checkpoint, weights_only=True)
    hypernet_trainer.save_checkpoint(last)
    if average is not None:
        average.replace_weights(stage)
    if is_rank_zero():
        hypernet = stage.hypernet
        hypernet.save(folder / "hypernet", include_encoder=not hypernet.freeze_encoder, dtype=torch.float16)
        write_curve(folder, curve.points)
    if stage.validated_at != hypernet_trainer.global_step:  # otherwise the last step was validated already
        hypernet_trainer.validate(stage, data, verbose=False)
    metrics = hypernet_trainer.callback_metrics
    scores = {name: float(score) for name, score in metrics.items() if name.startswith("val/")}
    if best is not None and best.best_model_score is not None:
        scores["best"] = float(best.best_model_score)
    scores["step"] = hypernet_trainer.global_step
    return scores
