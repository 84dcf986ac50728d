"""Runs a command: words in, an exit code out, and one sentence on stderr for what a user can cause."""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from hdb.signals import exit_by_signal, handle_stop_signals

BAD_INPUT = 2  # exit code
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # import name -> that of pip, where they differ in more than _


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Calls `main` and exits with 0, 2 for bad input, or 128 plus the number of the signal that stopped it.

    Args:
        argv: the words for `main`; None takes those of the command line.
    """
    exit_code = execute(main, sys.argv[1:] if argv is None else argv)
    if exit_code == 128 + signal.SIGTERM and os.environ.get("WANDB_SWEEP_ID"):
        exit_by_signal(signal.SIGTERM)  # W&B's agent ends runs early by it, and takes a positive code for a failure
    sys.exit(exit_code)


def execute(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """Calls `main` and returns the exit code of the process. Errors that no user can cause keep their traceback."""
    os.environ.setdefault("WANDB_SILENT", "true")
    silence_libraries()
    protect_output()
    with handle_stop_signals() as stop_request:
        error = None
        try:
            exit_code = _exit_code(main, argv)
        except Exception as failure:
            exit_code = None
            error = failure
        ranks = sys.modules.get("hdb.training.ranks")  # without it there is one process
        if error is not None and stop_request.signal is None:  # else the signal caused it
            if ranks is None or not ranks.is_lost_process_error(error):
                raise error
            exit_code = ranks.report_lost_process()
        if ranks is not None:
            ranks.mark_finished()
        if stop_request.signal is None and exit_code is not None:
            return exit_code
        # Lightning's launcher kills all processes if one that it started exits with another code than 0.
        return stop_request.report() if ranks is None or ranks.is_rank_zero() else 0


def silence_libraries() -> None:
    """Hides messages of libraries that are not about the user's work. Called before the libraries are imported."""
    logging.disable(logging.INFO)  # Lightning's tips; it sets its own level on import
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # tables of unexpected tensors, which we report in a sentence
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module="lightning.*")  # advice about num_workers and log intervals


def protect_output() -> None:
    """Keeps stdout and stderr from ending a command: by a character they cannot encode, a closed pipe, a full disk."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _ProtectedStream):
            continue
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="replace")
        if stream is getattr(sys, f"__{name}__"):  # tests and notebooks replace it by one that cannot fail
            setattr(sys, name, _ProtectedStream(stream))


class _ProtectedStream:
    """A text stream that writes nowhere from the first failure on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._redirect()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._redirect()

    def _redirect(self) -> None:
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def explain_missing(module: str) -> str:
    """What to do about a module of a library that is not there, in a sentence.

    >>> explain_missing("PIL")
    'the package PIL is not installed: expected it, as pip install pillow does'
    """
    from importlib.metadata import packages_distributions  # slow, and needed here alone

    package, _, inner = module.partition(".")
    if inner:  # Python names a package alone where that is missing
        distribution = packages_distributions().get(package, [package])[0]
        return f"the installed {distribution} has no module {module}: expected a version that pyproject.toml allows"
    distribution = DISTRIBUTIONS.get(package, package)
    if _normalized(distribution) in _direct_requirements():
        return f"the package {package} is not installed: expected it, as pip install {distribution} does"
    return f"the package {package} is not installed: expected it, as a library that is installed needs it"


def _direct_requirements() -> set[str]:
    """The distributions that this project asks for; none where it runs without having been installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        return {_normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in requires("hdb") or []}
    except PackageNotFoundError:
        return set()


def _normalized(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution).lower()


def _exit_code(main: Callable[[list[str]], None], argv: list[str]) -> int | None:
    """0, 2 for bad input, or the code of a SystemExit; None if the command was interrupted."""
    try:
        main(argv)
    except KeyboardInterrupt:
        return None
    except SystemExit as stop:
        is_interrupt = isinstance(stop.__context__, KeyboardInterrupt)  # Trainer turns Ctrl-C into exit(1)
        return None if is_interrupt else int(stop.code or 0)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "hdb", "experiments") or package in sys.stdlib_module_names:
            raise
        print(f"error: {explain_missing(error.name)}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)) and type(error).__name__ != "MisconfigurationException":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    return 0
