"""StopBetweenSteps: a signal stops a training only after a whole optimizer step."""

import signal
from typing import Any

import lightning as L

from hdb.signals import current_stop_request


class StopBetweenSteps(L.Callback):
    """Makes a stop signal wait for the end of the optimizer step, so that no checkpoint holds half a step.

    A step may take several batches, and no checkpoint holds the gradients accumulated so far. All processes stop after
    the same step, whichever of them got the signal. They compare every `check_every` steps, because a comparison waits
    for the device.
    """

    check_every = 10

    def __init__(self) -> None:
        self.last_step = 0

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """From here on a signal is only recorded, and `on_train_batch_end` stops the training."""
        current_stop_request().within_step = True

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        step_finished = trainer.global_step > self.last_step
        self.last_step = trainer.global_step
        if not step_finished:
            return
        if trainer.world_size > 1 and not self.share_stop_request(trainer):
            return  # `within_step` stays set: a signal between two comparisons waits for the next one
        stop_request = current_stop_request()
        stop_request.within_step = False
        if stop_request.signal:
            raise KeyboardInterrupt

    def share_stop_request(self, trainer: L.Trainer) -> bool:
        """Whether any process was asked to stop; if so, all of them are from now on."""
        if self.last_step % self.check_every:
            return False
        stop_request = current_stop_request()
        stop = trainer.strategy.reduce_boolean_decision(stop_request.signal is not None, all=False)
        if stop and stop_request.signal is None:
            stop_request.signal = signal.SIGTERM
        return stop

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        current_stop_request().within_step = False

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        current_stop_request().within_step = False
