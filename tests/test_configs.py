"""Shipped YAMLs against the schemas, and what a config refuses."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import config as schemas
from experiments.config import Evaluate, Inspect, Pretrain, dotted, load

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMAS = {
    "ablations": schemas.Ablate,
    "base": schemas.TrainBase,
    "base-full": schemas.TrainBase,
    "shipped": schemas.Pretrain,
    "full": schemas.Pretrain,
    "demo": schemas.Demo,
    "evaluate-full": schemas.Evaluate,
    "benchmark": schemas.Benchmark,
    "evaluate": schemas.Evaluate,
    "export": schemas.Export,
    "gate": schemas.MeasureGate,
    "generate": schemas.Generate,
    "paper": schemas.Pretrain,
    "personalize": schemas.Personalize,
    "prepare": schemas.Prepare,
    "preoptimize": schemas.Preoptimize,
    "pretrain": schemas.Pretrain,
    "search": schemas.Search,
    "tables": schemas.Evaluate,
}
REQUIRED = {
    "prepare": ["source=folders", "root=photos", "output=shards"],
    "ablations": ["pretrain=pretrain.yaml", "evaluate=evaluate.yaml"],
    "personalize": ["reference=face.png"],
    "generate": ["subject=me.safetensors"],
    "export": ["subject=me.safetensors", "output=lora.safetensors"],
}
YAMLS = sorted(path for room in ("faceworld", "sd15", "sdxl") for path in (CONFIGS / room).glob("*.yaml"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_loads_and_says_more_than_the_defaults(path):
    required = REQUIRED.get(path.stem, [])
    assert dotted(load(SCHEMAS[path.stem], [str(path), *required])) != dotted(load(SCHEMAS[path.stem], required))


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_key_is_a_field_and_every_value_fits(path):
    sweep = yaml.safe_load(path.read_text())
    words = [word for word in sweep["command"] if word.endswith(".yaml")]
    for key, choice in sweep["parameters"].items():
        for value in choice.get("values", [choice.get("min"), choice.get("max")]):
            assert dotted(load(SCHEMAS[path.stem], [str(CONFIGS.parent / words[0]), f"{key}={value}"]))[key] == value
    assert Path(sweep["program"]).stem in SCHEMAS
    assert sweep["command"][-1] == "${args_no_hyphens}"


def test_defaults_are_the_papers_values():
    config = load(Evaluate, [])
    assert (config.protocol.num_identities, config.protocol.num_prompts, config.protocol.num_pictures) == (100, 30, 10)
    assert (config.methods.finetuning.num_steps, config.methods.finetuning.rank) == (40, 4)
    lidb = load(Pretrain, []).lidb
    assert (lidb.a, lidb.b, lidb.rank) == (100, 50, 1)


def test_what_the_paper_fixes_is_written_out_and_what_we_found_better_differs_from_it():
    paper, ours = (load(Pretrain, [str(CONFIGS / "sd15" / f"{name}.yaml")]) for name in ("paper", "pretrain"))
    assert (paper.lidb, paper.hypernet) == (Pretrain().lidb, Pretrain().hypernet)
    assert (paper.faces.target, paper.faces.num_identities, paper.alpha, paper.beta) == ("same", 15000, 1.0, 1.0)
    assert (ours.faces.target, ours.timesteps, ours.hypernet.linear_path) == ("other", "high_noise", True)
    assert (ours.hypernet.iterations, ours.beta, ours.lidb) == (1, 0.0, paper.lidb)


def test_words_override_yaml_and_later_words_earlier_ones(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 0.5\nhypernet: {iterations: 3}\n")
    config = load(Pretrain, [str(path), "lr=0.25", "hypernet.width=8", "lr=0.125"])
    assert (config.lr, config.hypernet.iterations, config.hypernet.width) == (0.125, 3, 8)


@settings(deadline=None, max_examples=20)
@given(lr=st.floats(1e-9, 1e3), iterations=st.integers(0, 99))
def test_what_a_word_sets_is_what_is_logged(lr, iterations):
    flat = dotted(load(Pretrain, [f"lr={lr!r}", f"hypernet.iterations={iterations}"]))
    assert (flat["lr"], flat["hypernet.iterations"]) == (lr, iterations)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learning_rate=1"], "unknown config key 'learning_rate'"),
        (["hypernet.depth=2"], r"unknown config key 'hypernet.depth' \(in .*\); known here: encoder, "),
        (["hypernet.iterations=many"], "hypernet.iterations is 'many', expected a whole number"),
        (["nowhere.yaml"], "no config file 'nowhere.yaml'"),
        (["--lr=1"], "neither a .yaml file nor key=value"),
        (["lr=[1"], "not readable as key=value"),
        (["hypernet.depth.x=2"], r"unknown config key 'hypernet.depth' \(in .*\); known here: encoder, "),
        (["hypernet=3"], "hypernet is 3, expected names and values"),
        (["lidb={rank: {r: 1}}"], "lidb.rank was given the names r, expected a single value"),
    ],
)
def test_a_word_that_means_nothing_is_refused_by_name(words, message):
    with pytest.raises(ValueError, match=message):
        load(Pretrain, words)


def test_an_unknown_key_in_a_yaml_is_refused_with_the_files_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("hypernet: {iteration: 3}\n")
    with pytest.raises(ValueError, match=r"'hypernet.iteration' \(in .*mine.yaml\)"):
        load(Pretrain, [str(path)])
    path.write_text("lr: [1\n")
    with pytest.raises(ValueError, match="mine.yaml is not readable as YAML"):
        load(Pretrain, [str(path)])
    path.write_text("preview: {prompts: {a: b}}\n")
    with pytest.raises(ValueError, match="preview.prompts was given the names a, expected a list"):
        load(Pretrain, [str(path)])


def test_a_required_field_is_asked_for_by_name():
    with pytest.raises(ValueError, match="reference must be given: add reference="):
        load(schemas.Personalize, [])


def test_help_shows_the_fields_and_leaves(capsys):
    with pytest.raises(SystemExit) as stop:
        load(Inspect, ["--help"])
    assert stop.value.code == 0
    assert "subject: null" in capsys.readouterr().out
