"""The door every experiment goes through: arguments in, an exit code out, one sentence when something is wrong."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import ModuleType

from hdb.signals import end_of, stoppable

LOUD = ("diffusers", "transformers")  # tables of odd tensors, which we say in a sentence


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the command line's words and leaves with 0, 2 (bad input) or 128 and the number of a signal."""
    left = code(main, sys.argv[1:])
    if left == 128 + signal.SIGTERM and os.environ.get("WANDB_SWEEP_ID"):
        end_of(signal.SIGTERM)  # the agent sent it to end a run early, and takes codes above 0 for failures
    sys.exit(left)


def code(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """What `run` would leave with; what a user can cause is said in one sentence, anything else keeps its traceback."""
    os.environ.setdefault("WANDB_SILENT", "true")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for library in LOUD:
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")  # advice about num_workers and log intervals, not about us
    with stoppable() as stopping:
        try:
            left = _left(main, argv)
        except Exception as error:
            lost = (ranks := _ranks()) is not None and ranks.lost_another(error)
            if stopping.asked is None and not lost:
                raise
            left = None if stopping.asked else ranks.say_lost()  # whatever the signal, or another process, broke
        if ranks := _ranks():
            ranks.leave()
        if stopping.asked is None and left is not None:
            return left
        # Lightning's launcher kills all processes where one that it started leaves with another code than 0.
        return stopping.say() if ranks is None or ranks.is_first() else 0


def _left(main: Callable[[list[str]], None], argv: list[str]) -> int | None:
    """The exit code; None if it was interrupted."""
    try:
        main(argv)
    except KeyboardInterrupt:
        return None
    except SystemExit as stop:
        # Trainer turns Ctrl-C into exit(1)
        return None if isinstance(stop.__context__, KeyboardInterrupt) else int(stop.code or 0)
    except Exception as error:
        if not _of_a_user(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _of_a_user(error: Exception) -> bool:
    """Whether it is for a user to mend: a wrong value, a file, or a Trainer that this machine cannot have."""
    return isinstance(error, (ValueError, OSError)) or type(error).__name__ == "MisconfigurationException"


def _ranks() -> ModuleType | None:
    """What knows of other processes of this run; without it loaded a command is alone."""
    return sys.modules.get("hdb.training.ranks")
