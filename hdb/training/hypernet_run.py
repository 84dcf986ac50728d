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
from hdb.limits import choice_field, number_field
from hdb.metrics.table import METRICS
from hdb.training.averaging import AveragedWeights
from hdb.training.callbacks import LossCurve
from hdb.training.checkpoints import (
    AtomicCheckpointIO,
    best_checkpoint_callback,
    find_checkpoint,
    last_checkpoint_callback,
)
from hdb.training.curves import write_curve
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.ranks import broadcast_from_rank_zero, is_rank_zero
from hdb.training.stopping import StopBetweenSteps

LOOK_EVERY = 10  # steps: to look at a number is to wait for the device
# What a network may be the best by, and which way.
BEST = {f"val/{name}": "max" if metric.higher_is_better else "min" for name, metric in METRICS.items()}
BEST |= {"val/own_better": "max", "val/own_minus_other": "min", "val/diffusion_loss": "min"}


@dataclass
class ScheduleOptions:
    """How long, and what happens how often: `val_every` and `checkpoint_every` count steps.

    `max_minutes` ends a run early, unfinished schedule and all. A step takes the gradients of so many batches as
    `accumulate_grad_batches` says, of those that are left at the end of an epoch. `ema_decay` has a moving average of
    the weights validated and passed on in their place. `best_metric` keeps the checkpoint of the validation that was
    the best by it, beside the last.
    """

    max_steps: int = number_field(100_000, ge=1)
    max_minutes: float | None = number_field(None, gt=0)
    val_every: int = number_field(1000, ge=1)
    checkpoint_every: int = number_field(200, ge=1)
    accumulate_grad_batches: int = number_field(1, ge=1)
    ema_decay: float | None = number_field(None, ge=0, le=0.99999)
    best_metric: str | None = choice_field(
        None, BEST, message="{name} is {value!r}, expected one of {expected}, or null"
    )


def fit_hypernet(
    stage: HyperNetPretraining,
    data: FaceData,
    folder: Path,
    *,
    schedule: ScheduleOptions,
    trainer: Mapping[str, Any],
    resume: bool,
) -> dict[str, float]:
    """Writes last.ckpt, hypernet/ and curve.json; returns the scores of the last step, and which that is.

    With `best_metric` also best.ckpt; `best` among the scores is what it reached.

    Args:
        trainer: further arguments of the Trainer: accelerator, devices, precision, logger, callbacks beside those
            of the run itself.
        resume: from last.ckpt, where there is one.
    """
    last, curve = folder / "last.ckpt", LossCurve()
    rates = LearningRateMonitor(logging_interval="step")
    bar = TQDMProgressBar(refresh_rate=LOOK_EVERY) if trainer.get("enable_progress_bar", True) else None
    own = [last_checkpoint_callback(last, every=schedule.checkpoint_every), rates, curve, StopBetweenSteps()]
    average = AveragedWeights(decay=schedule.ema_decay) if schedule.ema_decay is not None else None
    best = (
        best_checkpoint_callback(folder / "best.ckpt", metric=name, mode=BEST[name])
        if (name := schedule.best_metric)
        else None
    )
    own += [callback for callback in (bar, average, best) if callback is not None]
    fitting = Trainer(
        max_steps=schedule.max_steps,
        max_time=timedelta(minutes=schedule.max_minutes) if schedule.max_minutes else None,
        accumulate_grad_batches=schedule.accumulate_grad_batches,
        val_check_interval=schedule.val_every * schedule.accumulate_grad_batches,  # Lightning counts batches
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=LOOK_EVERY,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        **(dict(trainer) | {"callbacks": [*own, *trainer.get("callbacks", ())]}),
    )
    fitting.fit(
        stage,
        data,
        ckpt_path=broadcast_from_rank_zero(lambda: find_checkpoint(last) if resume else None),
        weights_only=True,
    )
    fitting.save_checkpoint(last)
    if average is not None:
        average.replace_weights(stage)
    hypernet = stage.hypernet
    if is_rank_zero():
        hypernet.save(folder / "hypernet", include_encoder=not hypernet.freeze_encoder, dtype=torch.float16)
        write_curve(folder, curve.points)
    if stage.validated_at != fitting.global_step:  # drawing people once is slow enough
        fitting.validate(stage, data, verbose=False)
    scores = {name: float(score) for name, score in fitting.callback_metrics.items() if name.startswith("val/")}
    if best is not None and best.best_model_score is not None:
        scores["best"] = float(best.best_model_score)
    return {**scores, "step": fitting.global_step}
