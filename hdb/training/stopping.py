"""A training stops between two steps when a signal asks it to."""

from typing import Any

import lightning as L

from hdb.signals import stopping


class WholeSteps(L.Callback):
    """A signal waits for the end of the step, so that no checkpoint holds half an optimizer's step."""

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        stopping().within_step = True

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        stopping().within_step = False
        if stopping().asked:
            raise KeyboardInterrupt

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        stopping().within_step = False
