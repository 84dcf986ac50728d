"""The short version of tests/soak.py: few kills of two commands, and a few hundred steps."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_runs_survive_what_happens_to_them():
    command = [sys.executable, str(ROOT / "tests" / "soak.py"), "kills=2", "steps=200", "commands=preoptimize,pretrain"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, 0 lost" in done.stdout
