"""The curve of a training: every step counts once, however often the run was stopped."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from hdb.training import callbacks
from hdb.training.callbacks import LossCurve, StepRate

STEPS = 7
LOSSES = [8.0, 4.0, 3.0, 2.0, 1.0, 3.0, 5.0]
POINTS = [[3, 5.0], [6, 2.0], [7, 5.0]]  # means over ceil(7 / 3) steps


class ScriptedLoss(L.LightningModule):
    """A training with the losses of LOSSES."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return 0 * self.weight + LOSSES[self.global_step]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(callback: L.Callback, *, limit: int = 1000) -> L.Trainer:
    """Takes STEPS steps, and at most `limit` of them in this process."""
    return L.Trainer(
        max_steps=STEPS,
        max_epochs=1 if limit < STEPS else -1,
        limit_train_batches=limit,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_points_are_means_over_as_many_steps_and_the_last_is_of_what_remains():
    curve = LossCurve(num_points=3)
    trainer(curve).fit(ScriptedLoss(), DataLoader(torch.zeros(STEPS)))
    assert curve.points == POINTS


@pytest.mark.parametrize("stopped", range(1, STEPS))
def test_a_curve_that_was_stopped_at_any_step_has_no_holes_and_no_point_twice(stopped, tmp_path):
    first = trainer(LossCurve(num_points=3), limit=stopped)
    first.fit(ScriptedLoss(), DataLoader(torch.zeros(STEPS)))
    assert first.global_step == stopped
    first.save_checkpoint(tmp_path / "last.ckpt")
    curve = LossCurve(num_points=3)
    second = trainer(curve)
    second.fit(ScriptedLoss(), DataLoader(torch.zeros(STEPS)), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert second.global_step == STEPS and curve.points == POINTS


def test_the_rate_is_of_the_steps_after_the_first_ones(monkeypatch):
    times = iter([100.0, 108.0])  # at the end of the third step and of the training
    monkeypatch.setattr(callbacks, "synchronized_time", lambda device: next(times))
    rate = StepRate(num_skipped=3)
    trainer(rate).fit(ScriptedLoss(), DataLoader(torch.zeros(STEPS)))
    assert rate.steps_per_second == (STEPS - 3) / 8


def test_a_run_of_the_first_steps_alone_has_no_rate():
    rate = StepRate(num_skipped=STEPS)
    trainer(rate).fit(ScriptedLoss(), DataLoader(torch.zeros(STEPS)))
    assert rate.steps_per_second is None
