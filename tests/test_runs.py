"""Whose folder it is: a run is gone on with, another one is set aside."""

from dataclasses import dataclass
from pathlib import Path

from experiments.runs import claim


@dataclass
class Before:
    lr: float = 0.1


@dataclass
class Now:
    lr: float = 0.1
    judge: str | None = None


def test_an_unfinished_run_is_gone_on_with_by_code_that_knows_more_fields_if_they_are_null(tmp_path):
    run = tmp_path / "run"

    def goes_on(config: object) -> bool:
        return claim(run, config, result="metrics.json", inputs={"base_digest": "b"})

    assert not goes_on(Before())
    assert goes_on(Now()) and goes_on(Before())
    assert not goes_on(Now(judge="somebody"))
    assert not goes_on(Before())  # the one with a judge is set aside in its turn
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["run", "run.1", "run.2"]
