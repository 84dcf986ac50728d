"""Ablations: one row a variant, nothing trained twice, nothing mixed up."""

import json
from pathlib import Path

import pytest
import yaml

from experiments import ablate
from experiments.config import Ablate, Variant, load
from experiments.config import variants as words_of_variants
from hdb.evaluation.ablation import ablation_table, variant_record

CONFIGS = Path(__file__).parents[1] / "configs" / "faceworld"


@pytest.fixture
def variants(tiny_words):
    """Writes a config with these variants on top of tiny settings."""

    def write(**of_name: dict[str, list[str]]) -> str:
        few = ["protocol.num_identities=2", "protocol.num_prompts=1", "protocol.num_pictures=1"]
        content = {
            "pretrain": str(CONFIGS / "pretrain.yaml"),
            "evaluate": str(CONFIGS / "evaluate.yaml"),
            "preoptimize": str(CONFIGS / "preoptimize.yaml"),
            "common": {
                "preoptimize": tiny_words["preoptimize"],
                "pretrain": tiny_words["pretrain"],
                "evaluate": [*tiny_words["evaluate"], *few, "methods.names=[only_hyper,hyperdreambooth]"],
            },
            "variants": of_name,
        }
        Path("ablations.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return "ablations.yaml"

    return write


def cells(table: str) -> list[dict[str, str]]:
    """A table of Markdown as column -> cell, row by row."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def record(people: list[str], **face_rec: list[float]) -> dict:
    """A variant with these face_rec, person by person."""
    score = {"mean": 0.5, "ci95": [0.4, 0.6]}
    methods = {
        name: {"face_rec": {**score, "per_identity": scores}, "clip_t": {**score, "per_identity": scores}}
        for name, scores in face_rec.items()
    }
    metrics = {"val/own_minus_other": -0.02, "val/own_minus_other_ci95": 0.01, "val/own_better": 0.9375}
    return variant_record(metrics, {"protocol": {"identities": people}, "methods": methods})


def test_variants_share_a_hypernetwork_where_only_the_evaluation_differs(call, variants):
    config = variants(
        default={}, deep={"pretrain": ["hypernet.iterations=1"]}, wide={"evaluate": ["methods.finetuning.rank=2"]}
    )
    assert call(ablate, config) == 0
    folder = Path("outputs/ablations")
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("*/pretrain/last.ckpt")}
    assert sorted(path.parts[2] for path in trained) == ["deep", "default"]
    assert json.loads((folder / "default" / "words.json").read_text())["preoptimize"] == []  # no targets
    written = json.loads((folder / "ablations.json").read_text())["variants"]
    assert (folder / "ablations.md").read_text() == ablation_table(written).markdown() + "\n"
    rows = cells((folder / "ablations.md").read_text())
    assert [row["variant"] for row in rows] == ["default", "deep", "wide"]
    for column in ("only_hyper face_rec", "only_hyper clip_t", "own minus other", "own better"):
        assert rows[0][column] == rows[2][column]  # the same prediction ...
    assert rows[2]["only_hyper face_rec minus default"] == "+0.000 [+0.000, +0.000]"
    assert not rows[0]["hyperdreambooth face_rec minus default"]
    written = [json.loads((folder / name / "eval" / "results.json").read_text()) for name in ("default", "wide")]
    of_rank_4, of_rank_2 = (result["methods"]["hyperdreambooth"]["bytes"] for result in written)
    assert of_rank_2 < of_rank_4  # ... finetuned at another rank

    assert call(ablate, config) == 0
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    changed = variants(default={"pretrain": ["lr=0.5"]})
    assert call(ablate, changed) == 2


def test_gains_over_the_first_variant_are_of_the_people_that_both_have_and_columns_of_methods_that_there_are():
    rows = {
        "base": record(["a", "b", "c"], no_hyper=[0.1, 0.2, 0.3], hyperdreambooth=[0.1, 0.5, 0.9], oracle=[1, 1, 1]),
        "all": record(["c", "b", "a"], only_hyper=[0.1, 0.2, 0.3], hyperdreambooth=[0.95, 0.55, 0.15]),
        "few": record(["b", "z"], hyperdreambooth=[0.4, 0.0]),
        "others": record(["y", "z"], hyperdreambooth=[0.4, 0.0]),
    }
    base, everybody, few, others = cells(ablation_table(rows).markdown())
    methods = [column.split()[0] for column in base if column.endswith("clip_t")]
    assert methods == ["only_hyper", "no_hyper", "hyperdreambooth"]
    gain = "hyperdreambooth face_rec minus base"
    assert [row[gain] for row in (base, others)] == ["", ""]
    assert everybody[gain] == "+0.050 [+0.050, +0.050]" and few[gain] == "-0.100"
    assert not everybody["only_hyper face_rec minus base"]  # the first variant has no such method
    assert everybody["only_hyper face_rec"] == "0.500 [0.400, 0.600]" and not everybody["no_hyper face_rec"]
    assert base["own better"] == "0.938" and base["own minus other"] == "-0.0200 ± 0.0100"
    (alone,) = cells(ablation_table({"base": record(["a"], hyperdreambooth=[0.1])}).markdown())
    assert list(alone)[3:] == ["hyperdreambooth face_rec", "hyperdreambooth clip_t", gain]


def test_targets_are_fitted_once_for_the_variants_that_want_them(call, variants):
    beta = ["beta=0.1"]
    config = variants(
        targets={"pretrain": beta, "evaluate": ["methods.names=[no_hyper,hyperdreambooth]"]},
        slow={"pretrain": [*beta, "linear_lr=1e-5"]},
        pulled={"pretrain": beta, "preoptimize": ["mean_pull=0.5"], "evaluate": ["methods.names=[hyperdreambooth]"]},
    )
    assert call(ablate, config) == 0
    folder = Path("outputs/ablations")
    assert sorted(path.parts[2] for path in folder.glob("*/preoptimize/metrics.json")) == ["pulled", "targets"]
    for name, whose in (("targets", "targets"), ("slow", "targets"), ("pulled", "pulled")):
        trained = yaml.safe_load((folder / name / "pretrain" / "config.yaml").read_text())
        assert trained["thetas"] == str(folder / whose / "preoptimize")
    rows = cells((folder / "ablations.md").read_text())
    assert [bool(row["no_hyper face_rec"]) for row in rows] == [True, False, False]
    assert [bool(row["only_hyper face_rec"]) for row in rows] == [False, True, False]
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.safetensors")}
    assert written
    assert call(ablate, config) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_every_shipped_variant_can_be_run():
    config = load(Ablate, [str(CONFIGS / "ablations.yaml")])
    assert len(config.variants) > 20
    for name in config.variants:
        assert words_of_variants.plan_variant(name, config).pretrain[0] == config.pretrain


def test_a_variant_with_a_key_of_no_experiment_is_refused_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("variants: {deep: {train: [lr=1]}}\n")
    with pytest.raises(ValueError, match="unknown config key 'variants.deep.train' .*known here: pretrain, evaluate"):
        load(Ablate, [str(tmp_path / "mine.yaml")])


def test_targets_that_would_not_be_used_or_not_fit_are_refused_before_anything_runs(tiny_words):
    def plan(variant: Variant, yaml: str | None = str(CONFIGS / "preoptimize.yaml")) -> Variant:
        common = Variant(pretrain=tiny_words["pretrain"], preoptimize=tiny_words["preoptimize"])
        paths = {"pretrain": str(CONFIGS / "pretrain.yaml"), "evaluate": str(CONFIGS / "evaluate.yaml")}
        config = Ablate(**paths, preoptimize=yaml, common=common, variants={"it": variant})
        return words_of_variants.plan_variant("it", config)

    beta = ["beta=0.1"]
    assert not plan(Variant()).preoptimize and not plan(Variant(pretrain=[*beta, "thetas=mine"])).preoptimize
    assert plan(Variant(pretrain=beta)).preoptimize[-1] == tiny_words["preoptimize"][-1]
    for variant, message in (
        (Variant(preoptimize=["lr=0.1"]), "'it' has words for preoptimize, but beta is 0.0: expected beta above 0"),
        (Variant(pretrain=[*beta, "lidb.a=5"]), "'it' has targets of lidb.a = 4, expected 5 as in pretrain"),
        (Variant(pretrain=[*beta, "faces.seed=7"]), "'it' has targets of faces.seed = 0, expected 7 as in pretrain"),
        (Variant(evaluate=["num_identitis=3"]), "variant 'it': unknown config key 'num_identitis'"),
        (Variant(evaluate=["methods.names=[only_hyper]"]), "methods is only_hyper, expected hyperdreambooth"),
        (
            Variant(pretrain=[*beta, "faces.num_identities=4"]),
            "targets of 3 people, expected 4 as in pretrain",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            plan(variant)
    with pytest.raises(ValueError, match="'it' needs targets, but preoptimize is null; expected the YAML"):
        plan(Variant(pretrain=beta), None)
