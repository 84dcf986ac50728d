"""The door every experiment goes through: arguments in, an exit code out, one sentence when something is wrong."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable

from hdb.signals import stoppable


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the command line's words and leaves with 0, 2 (bad input) or 128 and the number of a signal."""
    sys.exit(code(main, sys.argv[1:]))


def code(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """What `run` would leave with; what a user can cause is said in one sentence, anything else keeps its traceback."""
    os.environ.setdefault("WANDB_SILENT", "true")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for library in ("diffusers", "transformers"):  # their tables of odd tensors: we say it in a sentence
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")  # advice about num_workers and log intervals, not about us
    with stoppable() as stopping:
        try:
            left = _left(main, argv)
        except Exception:
            if stopping.asked is None:
                raise
            left = None  # whatever the signal broke
        return left if stopping.asked is None and left is not None else _stopped(stopping.asked or signal.SIGINT)


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


def _stopped(asked: signal.Signals) -> int:
    how = "interrupted" if asked == signal.SIGINT else f"stopped by {asked.name}"
    print(f"{how}: whatever was saved is whole, and the same command goes on from there", file=sys.stderr)
    return 128 + asked
