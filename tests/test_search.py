"""The search for a rate: every setting once, on validation people, and the better one chosen."""

import json
from pathlib import Path

import pytest

from experiments import search
from experiments.config import Search, dotted, load
from hdb.evaluation.search import choose_setting

GRIDS = """
methods: {names: [dreambooth_agg2, textual_inversion]}
grids:
  dreambooth_agg2: {methods.dreambooth_agg2.lr: [1.0e-3, 1.0e-2]}
  textual_inversion: {methods.textual_inversion.lr: [0.1], methods.textual_inversion.num_steps: [2]}
"""
FEW = ["protocol.num_prompts=1", "protocol.num_pictures=1", "protocol.num_identities=2"]


def test_a_search_tries_every_setting_on_validation_people_and_goes_on_where_it_was(call, tiny_weights):
    Path("small.yaml").write_text(GRIDS)
    words = [*FEW, f"hypernet={tiny_weights}/hypernet"]
    assert call(search, *words, "small.yaml") == 0
    folder = Path("outputs/search")
    found = json.loads((folder / "dreambooth_agg2.json").read_text())
    assert [setting["words"] for setting in found["settings"]] == [
        ["methods.dreambooth_agg2.lr=0.001"],
        ["methods.dreambooth_agg2.lr=0.01"],
    ]
    assert found["people"] == ["20", "21"]  # nobody who is tested
    for setting in found["settings"]:
        assert setting["seconds"] > 0 and setting["seconds_alone"] > 0 and setting["bytes"] > 0
        assert setting["clip_t"]["ci95"][0] <= setting["clip_t"]["mean"] <= setting["clip_t"]["ci95"][1]
    assert found["chosen"] == choose_setting(found["settings"], unpersonalized=found["unpersonalized"], within=0.02)
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert len(made) == 3 * 2
    assert call(search, *words, "small.yaml", "methods.names=[textual_inversion]") == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == made
    assert call(search, *words, "small.yaml", "methods.names=[textual_inversion]", "seed=1") == 0
    assert len(list(folder.rglob("*.safetensors"))) == len(made) + 2  # what differs in anything is made anew


def test_a_field_that_no_method_has_is_refused_before_anything_runs(call, capsys):
    Path("small.yaml").write_text("methods: {names: [k1]}\ngrids: {k1: {methods.finetuning.rate: [0.1]}}\n")
    assert call(search, "small.yaml") == 2
    assert "unknown config key 'methods.finetuning.rate'" in capsys.readouterr().err and not Path("outputs").exists()


def test_the_prompt_is_kept_within_a_limit_or_nothing_is_chosen():
    def setting(name: str, face_rec: float, clip_t: float) -> dict:
        return {"words": [name], "face_rec": {"mean": face_rec}, "clip_t": {"mean": clip_t}}

    found, base = [setting("low", 0.3, 0.75), setting("mid", 0.4, 0.735), setting("high", 0.6, 0.6)], {"clip_t": {}}
    for clip_t, within, kept in ((0.75, 0.02, ["mid"]), (0.75, 0.01, ["low"]), (0.9, 0.02, None)):
        base["clip_t"]["mean"] = clip_t
        assert choose_setting(found, unpersonalized=base, within=within) == {
            "keeps_prompt": kept,
            "face_rec_alone": ["high"],
        }


def test_every_setting_of_the_shipped_grids_is_a_field_of_its_method():
    path = str(Path(__file__).parents[1] / "configs/faceworld/search.yaml")
    grids = load(Search, [path]).grids
    assert grids
    for name, grid in grids.items():
        for key, values in grid.items():
            assert [dotted(load(Search, [path, f"{key}={value:g}"]))[key] for value in values] == values, (name, key)
    with pytest.raises(ValueError, match="unknown config key 'methods.dreambooth.rate'"):
        load(Search, [path, "methods.dreambooth.rate=1"])
