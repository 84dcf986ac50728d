"""Signals that ask a process to stop: between two steps of a training, at once elsewhere; never mistaken for an end."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, kill, a closed terminal, and what clusters send before they take a machine away or its time is used up.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)


class Stopping:
    """What was asked of this process, and whether it waits for the end of a step. There is one: signals are global."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.within_step, self.process = False, os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raises KeyboardInterrupt, which every library knows; once, so that the saving it causes is not disturbed."""
        if os.getpid() != self.process:  # a forked worker: it has nothing to save
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again, self.asked = self.asked is not None, self.asked or signal.Signals(number)
        impatient = again and self.within_step and number == signal.SIGINT
        if impatient or not (again or self.within_step):
            raise KeyboardInterrupt

    def say(self) -> int:
        """Says what stopped this process; the exit code."""
        asked = self.asked or signal.SIGINT
        how = "interrupted" if asked == signal.SIGINT else f"stopped by {asked.name}"
        print(f"{how}: whatever was saved is whole, and the same command goes on from there", file=sys.stderr)
        return 128 + asked


_stopping = Stopping()


def stopping() -> Stopping:
    """What was asked of this process since the last `stoppable`."""
    return _stopping


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Within the `with` block the signals interrupt; those that whoever started us has us ignore stay ignored (nohup).

    Gives what was asked, None if nothing.
    """
    global _stopping
    _stopping, earlier = Stopping(), {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                earlier[number] = signal.signal(number, _stopping.handle)
    try:
        yield _stopping
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def end_of(number: signal.Signals) -> None:
    """Ends this process of a signal, as one ends that handles none."""
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
