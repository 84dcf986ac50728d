"""The door every experiment goes through: arguments in, an exit code out, one sentence when something is wrong."""

import os
import signal
import sys
from collections.abc import Callable

from experiments.quiet import quieten
from hdb.signals import exit_by_signal, handle_stop_signals


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the command line's words and leaves with 0, 2 (bad input) or 128 and the number of a signal."""
    left = code(main, sys.argv[1:])
    if left == 128 + signal.SIGTERM and os.environ.get("WANDB_SWEEP_ID"):
        exit_by_signal(signal.SIGTERM)  # the agent sent it to end a run early, and takes codes above 0 for failures
    sys.exit(left)


def code(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """What `run` would leave with; what a user can cause is said in one sentence, anything else keeps its traceback."""
    os.environ.setdefault("WANDB_SILENT", "true")
    quieten()
    with handle_stop_signals() as stop_request:
        try:
            left, broken = _left(main, argv), None
        except Exception as error:
            left, broken = None, error
        ranks = sys.modules.get("hdb.training.ranks")  # a command that has not loaded it is alone
        if broken is not None and stop_request.signal is None:  # else the signal broke it
            if ranks is None or not ranks.is_lost_process_error(broken):
                raise broken
            left = ranks.report_lost_process()
        if ranks is not None:
            ranks.mark_finished()
        if stop_request.signal is None and left is not None:
            return left
        # Lightning's launcher kills all processes where one that it started leaves with another code than 0.
        return stop_request.report() if ranks is None or ranks.is_rank_zero() else 0


def _left(main: Callable[[list[str]], None], argv: list[str]) -> int | None:
    """The exit code; None if it was interrupted."""
    try:
        main(argv)
    except KeyboardInterrupt:
        return None
    except SystemExit as stop:  # Trainer turns Ctrl-C into exit(1)
        return None if isinstance(stop.__context__, KeyboardInterrupt) else int(stop.code or 0)
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)) and type(error).__name__ != "MisconfigurationException":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
