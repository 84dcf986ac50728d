"""The door every experiment goes through: arguments in, an exit code out, one sentence when something is wrong."""

import logging
import os
import sys
import warnings
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the command line's words and leaves with 0, 2 (bad input) or 130 (Ctrl-C)."""
    sys.exit(code(main, sys.argv[1:]))


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
    try:
        main(argv)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Trainer turns Ctrl-C into exit(1)
            return _interrupted()
        return int(stop.code or 0)
    except (ValueError, OSError, MisconfigurationException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _interrupted() -> int:
    print("interrupted: whatever was saved is whole, and the same command goes on from there", file=sys.stderr)
    return 130
