"""Commands one after another in a process, of which Lightning starts a second: python tests/pair.py plan.json [victim]

The plan is a list of [command, words]; the words ask for two devices. The process of the victim's number is killed at
the sixth step of a pretraining: not from outside, where a busy machine may come too late.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from experiments.cli import execute
from hdb.training.pretrain import HyperNetPretraining


def kill(victim: int) -> None:
    """Sees to it; killed.txt says when it was."""
    real = HyperNetPretraining.training_step

    def training_step(stage: HyperNetPretraining, *given: Any) -> Any:
        if (stage.global_rank, stage.global_step) == (victim, 5):
            Path("killed.txt").write_text(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)
        return real(stage, *given)

    HyperNetPretraining.training_step = training_step


if __name__ == "__main__":
    if len(sys.argv) > 2:
        kill(int(sys.argv[2]))
    for command, words in json.loads(Path(sys.argv[1]).read_text()):
        if exit_code := execute(importlib.import_module(f"experiments.{command}").main, words):
            sys.exit(exit_code)
