"""`make gpu`: a part that fails does not keep the next from running, and the exit status tells."""

import json
from pathlib import Path

import pytest

from experiments import gpu
from experiments.cli import execute
from experiments.config import Gpu, load


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """Runs the command with lines of shell in the place of its parts; gives the exit code and the folder."""

    def run(lines: dict[str, str], *words: str) -> tuple[int, Path]:
        commands = {name: ["/bin/sh", "-c", line] for name, line in lines.items()}  # starts at once on busy cores, too
        monkeypatch.setattr(gpu, "part_commands", lambda config, output: commands)
        code = execute(gpu.main, ["accelerator=cpu", f"output={tmp_path}", *words])
        return code, next(tmp_path.iterdir())

    return run


def test_a_part_that_fails_or_takes_too_long_is_told_and_the_others_run(parts, capsys):
    lines = {
        "tests": "echo 7 passed",
        "benchmark": "echo begun; echo no such base >&2; exit 1",
        "pretrain": "echo step 1; exec sleep 60",
        "evaluate": "echo never",
    }
    code, folder = parts(lines, "minutes=0.05")
    assert code == gpu.FAILED
    assert {path.name: path.read_text().split("\n")[0] for path in folder.glob("*.txt")} == {
        "1-tests.txt": "7 passed",
        "2-benchmark.txt": "begun",
        "3-pretrain.txt": "step 1",
        "4-evaluate.txt": "not begun: the time was over",
    }
    record = json.loads((folder / "parts.json").read_text())["parts"]
    assert [part["exit_code"] for part in record.values()] == [0, 1, gpu.TIMED_OUT, gpu.TIMED_OUT]
    said = capsys.readouterr().out
    assert "no such base" in said and said.count("out of time") == 2


def test_all_is_well_where_every_part_is(parts):
    assert parts({"tests": "true", "benchmark": "exit 3"}, "parts=[tests]")[0] == 0


def test_every_command_is_one_that_its_config_takes(tmp_path):
    """The words of the defaults are read by the schemas of their commands."""
    from experiments import config as schemas
    from experiments.shell.positional import expand_words

    config = load(Gpu, [])
    commands = gpu.part_commands(config, tmp_path)
    assert set(commands) == set(config.parts)
    names = {"portrait": "faceworld"}
    expected = {"benchmark": "Benchmark", "portrait": "RenderFaceworld", "personalize": "Personalize"}
    expected |= {"generate": "Generate", "evaluate": "Evaluate", "pretrain": "Pretrain"}
    for part, schema in expected.items():
        name, *words = commands[part][commands[part].index(gpu.SHELL) + 1 :]
        assert name == names.get(part, part)
        load(getattr(schemas, schema), expand_words(name, words))
    load(schemas.TrainBase, commands["base"][commands["base"].index("experiments.base") + 1 :])
    with pytest.raises(ValueError, match="parts has 'test', expected some of tests, benchmark"):
        load(Gpu, ["parts=[test]"])


def test_without_a_gpu_one_sentence_says_so(capsys):
    assert execute(gpu.main, []) == 2
    assert "this machine has no accelerator=gpu" in capsys.readouterr().err
