"""A training stops between two steps when a signal asks it to."""

import signal
from typing import Any

import lightning as L

from hdb.signals import current_stop_request


class StopBetweenSteps(L.Callback):
    """A signal waits for the end of the step, so that no checkpoint holds half an optimizer's step.

    A step may take several batches: gradients of those before its last are in no checkpoint. Of several processes all
    stop after the same step, whichever got the signal: they ask each other every `every` steps, since to ask is to wait
    for the device.
    """

    every = 10

    def __init__(self) -> None:
        self.step = 0  # the last that was taken

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        current_stop_request().within_step = True

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        taken, self.step = trainer.global_step > self.step, trainer.global_step
        if not taken or (trainer.world_size > 1 and not self.all_asked(trainer)):
            return  # and still within the step: a signal in between waits, too
        current_stop_request().within_step = False
        if current_stop_request().signal:
            raise KeyboardInterrupt

    def all_asked(self, trainer: L.Trainer) -> bool:
        """Whether one of several processes was asked to stop; then all are."""
        if self.step % self.every:
            return False
        asked = trainer.strategy.reduce_boolean_decision(current_stop_request().signal is not None, all=False)
        current_stop_request().signal = current_stop_request().signal or (signal.SIGTERM if asked else None)
        return asked

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        current_stop_request().within_step = False

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        current_stop_request().within_step = False
