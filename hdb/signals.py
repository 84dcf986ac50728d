"""Signals that ask the process to stop: at the end of a training step, or at once outside of training."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, kill, a closed terminal, and what clusters send before they take a machine away or when time is used up.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)


class StopRequest:
    """The signal that asked this process to stop, if any.

    Attributes:
        signal: The first signal received, or None.
        within_step: True during a training step. The callback that set it then raises KeyboardInterrupt at its end.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.within_step = False
        self.process_id = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raises KeyboardInterrupt, only once: a second signal must not disturb the saving that the first one caused.

        Within a step the first signal is only recorded. A second Ctrl-C does interrupt the step.
        """
        if os.getpid() != self.process_id:  # a forked worker has nothing to save and ends at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        is_repeated = self.signal is not None
        if not is_repeated:
            self.signal = signal.Signals(number)
        interrupts_step = is_repeated and self.within_step and number == signal.SIGINT
        if interrupts_step or not (is_repeated or self.within_step):
            raise KeyboardInterrupt

    def report(self) -> int:
        """Prints what stopped this process and returns its exit code, 128 plus the number of the signal."""
        stopped_by = self.signal or signal.SIGINT
        reason = "interrupted" if stopped_by == signal.SIGINT else f"stopped by {stopped_by.name}"
        print(f"{reason}: whatever was saved is whole, and the same command goes on from there", file=sys.stderr)
        return 128 + stopped_by


_stop_request = StopRequest()


def current_stop_request() -> StopRequest:
    """The request of the latest `handle_stop_signals`. There is one per process, as signal handlers are global."""
    return _stop_request


@contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """Handles the stop signals within a `with` block, then restores the previous handlers.

    Signals that the parent process had us ignore (nohup) stay ignored. Outside of the main thread, where Python allows
    no handlers, nothing is handled.
    """
    global _stop_request
    _stop_request = StopRequest()
    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous_handlers[number] = signal.signal(number, _stop_request.handle)
    try:
        yield _stop_request
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def exit_by_signal(number: signal.Signals) -> None:
    """Ends this process by the signal's default action, so that the parent sees which signal ended it."""
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
