"""Ablations: one row a variant, nothing trained twice, nothing mixed up."""

import json
from pathlib import Path

import pytest
import yaml

from experiments import ablate

CONFIGS = Path(__file__).parents[1] / "configs" / "faceworld"


@pytest.fixture
def variants(tiny_words):
    """Writes a config with these variants on top of tiny settings."""

    def write(**of_name: dict[str, list[str]]) -> str:
        few = ["num_identities=2", "num_prompts=1", "num_pictures=1"]
        content = {
            "pretrain": str(CONFIGS / "pretrain.yaml"),
            "evaluate": str(CONFIGS / "evaluate.yaml"),
            "common": {
                "pretrain": tiny_words["pretrain"],
                "evaluate": [*tiny_words["evaluate"], *few, "methods=[only_hyper,hyperdreambooth]"],
            },
            "variants": of_name,
        }
        Path("ablations.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return "ablations.yaml"

    return write


def test_variants_share_a_hypernetwork_where_only_the_evaluation_differs(call, variants):
    config = variants(
        default={}, deep={"pretrain": ["hypernet.iterations=1"]}, wide={"evaluate": ["finetuning.rank=2"]}
    )
    assert call(ablate, config) == 0
    folder = Path("outputs/ablations")
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("*/pretrain/last.ckpt")}
    assert sorted(path.parts[2] for path in trained) == ["deep", "default"]
    lines = (folder / "ablations.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["variant", "---", "default", "deep", "wide"]
    assert lines[2].split("|")[3:5] == lines[4].split("|")[3:5]  # the same prediction ...
    results = [json.loads((folder / name / "eval" / "results.json").read_text()) for name in ("default", "wide")]
    of_rank_4, of_rank_2 = (result["methods"]["hyperdreambooth"]["bytes"] for result in results)
    assert of_rank_2 < of_rank_4  # ... finetuned at another rank

    assert call(ablate, config) == 0
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    changed = variants(default={"pretrain": ["lr=0.5"]})
    assert call(ablate, changed) == 2


def test_an_evaluation_without_the_method_itself_is_refused(call, variants, capsys):
    config = variants(default={"evaluate": ["methods=[only_hyper]"]})
    assert call(ablate, config) == 2
    assert "methods is only_hyper, expected hyperdreambooth and some of unpersonalized" in capsys.readouterr().err
