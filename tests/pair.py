"""Commands one after the other in one process, of which Lightning starts a second: python tests/pair.py plan.json

The plan is a list of [command, words]; the words ask for devices=2.
"""

import importlib
import json
import sys
from pathlib import Path

from experiments.cli import code

if __name__ == "__main__":
    for command, words in json.loads(Path(sys.argv[1]).read_text()):
        if left := code(importlib.import_module(f"experiments.{command}").main, words):
            sys.exit(left)
