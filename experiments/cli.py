"""The door every experiment goes through: arguments in, an exit code out, one sentence when something is wrong."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException

from hdb.training import ranks
from hdb.training.stopping import stoppable


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the command line's words and leaves with 0, 2 (bad input) or 128 and the number of a signal.

    Under a W&B agent a run that SIGTERM stopped ends of that signal. The agent sends it where the sweep ends a run
    early (hyperband), and counts codes above 0 as failures, of which a few end the agent.
    """
    left = code(main, sys.argv[1:])
    if left == 128 + signal.SIGTERM and os.environ.get("WANDB_SWEEP_ID"):
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(left)


def code(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """What `run` would leave with; what a user can cause is said in one sentence, anything else keeps its traceback."""
    os.environ.setdefault("WANDB_SILENT", "true")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for library in (
        "diffusers",
        "transformers",
    ):  # their tables of odd tensors: we say it in a sentence
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")  # advice about num_workers and log intervals, not about us
    with stoppable() as stopping:
        try:
            left = _left(main, argv)
        except Exception as error:
            if stopping.asked is None and not ranks.lost_another(error):
                raise
            left = None if stopping.asked else 2  # whatever the signal, or another process, broke
            if left:
                print(f"error: {ranks.GONE}", file=sys.stderr)
        ranks.leave()
        if stopping.asked and not ranks.is_first():
            return 0  # Lightning's launcher kills all where one that it started leaves with another code
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
    except (ValueError, OSError, MisconfigurationException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _stopped(asked: signal.Signals) -> int:
    how = "interrupted" if asked == signal.SIGINT else f"stopped by {asked.name}"
    print(f"{how}: whatever was saved is whole, and the same command goes on from there", file=sys.stderr)
    return 128 + asked
