"""Hostile files: each gets one sentence and exit code 2, runs nothing, and leaves everything as it was."""

import re
import resource
import shutil
from pathlib import Path

import pytest
from hostile import FILES, good_subject
from PIL import Image

from experiments import evaluate, inspect, preoptimize, pretrain
from hdb.lidb.layout import Layout

COMMANDS = {"evaluate": evaluate, "inspect": inspect, "preoptimize": preoptimize, "pretrain": pretrain}


@pytest.fixture(scope="module")
def layout(tiny_base) -> tuple:
    from hdb.diffusion.stable_diffusion import StableDiffusion

    diffusion = StableDiffusion.from_pretrained(tiny_base)
    return diffusion, Layout.from_models(diffusion.components, a=4, b=3)


@pytest.fixture
def folder(call, layout, tiny_weights, tmp_path) -> Path:
    """A folder with intact files, from which the hostile ones are made."""
    good_subject(tmp_path, *layout)
    shutil.copytree(tiny_weights / "hypernet", "good-hypernet")
    Path("photos").mkdir()
    for person in range(4):
        Image.new("RGB", (64, 64), (40 * person, 90, 90)).save(f"photos/{person}.png")
    return tmp_path


def test_there_are_forty_hostile_files_and_more():
    assert len(FILES) >= 40 and len({name for name, *_ in FILES}) == len(FILES)


@pytest.mark.parametrize(("name", "command", "make", "pattern"), FILES, ids=[name for name, *_ in FILES])
@pytest.mark.filterwarnings("ignore")  # pictures that are skipped
def test_a_hostile_file_gets_a_sentence(name, command, make, pattern, call, folder, capsys):
    make(folder / name)
    files = sorted(folder.rglob("*"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command, *words = command.format(name).split()
    assert call(COMMANDS[command], *words) == 2
    errors = capsys.readouterr().err
    (message,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert re.search(pattern, message), message
    assert len(message) < 2000 and "Traceback" not in errors
    assert sorted(folder.rglob("*")) == files and not Path("hacked").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # kB
