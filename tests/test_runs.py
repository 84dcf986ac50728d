"""The folder of a run: resumed if it is the same run, set aside if it is another."""

from pathlib import Path

import pytest
import yaml

from experiments.config import Inspect
from experiments.runs import claim_run_folder


@pytest.mark.parametrize(
    ("written", "same"),
    [({}, True), ({"an.old.field": 3}, True), ({"lidb.a": 7}, False), ({"base_digest": "0ther"}, False)],
)
def test_a_run_is_gone_on_with_where_its_settings_are_those_of_now_but_for_fields_that_are_no_more(
    tmp_path, written, same
):
    folder = tmp_path / "run"
    depends_on = {"base_digest": "ba5e"}
    with claim_run_folder(folder, Inspect(), result="done.json", depends_on=depends_on) as goes_on:
        assert not goes_on
    record = folder / "config.yaml"
    record.write_text(yaml.safe_dump(yaml.safe_load(record.read_text()) | written))
    with claim_run_folder(folder, Inspect(), result="done.json", depends_on=depends_on) as goes_on:
        assert goes_on == same
    assert Path(f"{folder}.1").exists() == (not same)
