"""The direction of imports, as DESIGN says; the contracts are in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_follow_the_data_flow():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_nouns_of_the_package_are_where_it_says():
    import hdb

    assert {getattr(hdb, name).__name__ for name in hdb.__all__ if name != "__version__"} == set(hdb.__all__) - {
        "__version__"
    }
