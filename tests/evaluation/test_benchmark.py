"""What the benchmark counts and compares, and that it runs on any base: read, or of random weights."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from experiments import benchmark
from experiments.cli import execute
from experiments.config import Benchmark, load
from hdb.diffusion.base import prepare_for_device
from hdb.diffusion.random_base import build_random_stable_diffusion
from hdb.diffusion.weights import named_weights, weights_checksum
from hdb.evaluation.cost import matmul_ceiling, measure_cost, paired_ratios
from hdb.evaluation.steps import StepTable
from hdb.evaluation.workloads import Workloads, load_or_build_base

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


class Normal(NamedTuple):
    """A benchmark with a step of every method: what it wrote and printed, and the base before and after the steps."""

    folder: Path
    results: dict
    printed: str
    base: list[str]


@pytest.fixture(scope="module")
def toy_words(tiny_weights) -> list[str]:
    small = ["lidb.a=4", "lidb.b=3", "hypernet.width=8", "hypernet.num_heads=2", "finetuning.num_steps=2"]
    few = ["num_steps=2", "num_repeats=1", "num_pairs=2", "num_people=2", "num_residuals=2", "batch_size=2"]
    draw = ["sampling.num_inference_steps=2", "num_pictures=2", f"hypernet.encoder={tiny_weights}/encoder"]
    return [f"base={tiny_weights}/base", "accelerator=cpu", *small, *few, *draw]


@pytest.fixture
def measure(toy_words, tmp_path, monkeypatch):
    """Runs the benchmark at toy size; gives back its exit code and what it wrote."""

    def run(*words: str) -> tuple[int, dict]:
        monkeypatch.chdir(tmp_path)
        result = execute(benchmark.main, [*toy_words, *words])
        path = Path("outputs/benchmark/results.json")
        return result, json.loads(path.read_text()) if path.is_file() else {}

    return run


@pytest.fixture(scope="module")
def normal(toy_words, tmp_path_factory) -> Normal:
    rows, base = StepTable.rows, []

    def watched(table):
        diffusion = table.work.diffusion
        base.append(weights_checksum(named_weights(diffusion)))
        yield from rows(table)
        base.append(weights_checksum(named_weights(diffusion)))

    folder, printed = tmp_path_factory.mktemp("normal") / "out", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(StepTable, "rows", watched)
        assert execute(benchmark.main, [*toy_words, "num_method_steps=2", f"output={folder}"]) == 0
    return Normal(folder, json.loads((folder / "results.json").read_text()), printed.getvalue(), base)


def test_every_piece_is_recorded_and_low_memory_is_more_arithmetic_in_training_only(normal, measure, capsys):
    result, low = measure("memory=low")
    printed = capsys.readouterr().out
    assert result == 0 and {"device", "torch", "dtype", "precision", "matmul_rate"} <= set(low)
    assert len(low["costs"]) == 5 and len(low["ratios"]) == 2
    for name, measured in low["costs"].items():
        assert name in printed and measured["seconds"] > 0
        assert measured["of_ceiling"] == pytest.approx(
            measured["operations"] / measured["seconds"] / low["matmul_rate"]
        )
    assert all(name in printed and len(ratios) == 2 for name, ratios in low["ratios"].items())
    prediction, finetuning, whole, _, _ = (measured["operations"] for measured in low["costs"].values())
    assert whole > prediction + finetuning  # the face is looked for and encoded besides
    costs = normal.results["costs"]
    more = [low["costs"][name]["operations"] / costs[name]["operations"] for name in costs]
    prediction, finetuning, whole, pretraining, pictures = more
    assert prediction == pictures == 1
    assert 1.2 < finetuning < 1.6 and whole > 1 and pretraining > 1.05


def test_a_step_of_every_method_is_measured_and_the_base_is_itself_afterwards(normal):
    steps, ratios = normal.results["steps"], normal.results["step_ratios"]
    assert normal.base[0] == normal.base[1]
    assert len(steps) == 9 and all(name in normal.printed for name in (*steps, *ratios))
    assert json.loads((normal.folder / "steps.json").read_text()) == steps
    assert all(cost["milliseconds"] > 0 and cost["kernels"] > 100 for cost in steps.values())
    assert steps["ours, 16 people at once, 1 draw"]["num_people"] == 16
    assert steps["ours, 4 draws, memory=low"]["kernels"] > 1.2 * steps["ours, 4 draws"]["kernels"]
    name = "1,200 steps of DreamBooth / 40 of ours"
    dreambooth = steps["DreamBooth, float32, 1 draw and a class picture"]
    expected = 30 * dreambooth["milliseconds"] / steps["ours, 4 draws"]["milliseconds"]
    assert ratios[name] == pytest.approx(expected)


def test_a_row_that_cannot_be_measured_says_why_and_the_others_are(tiny_weights, tmp_path, monkeypatch):
    words = [f"base={tiny_weights}/base", "lidb.a=4", "lidb.b=3", "hypernet.width=8", "hypernet.num_heads=2"]
    config = load(Benchmark, [*words, f"hypernet.encoder={tiny_weights}/encoder", "accelerator=cpu"])
    table = StepTable(Workloads(config, folder=tmp_path, device=CPU), num_steps=2)

    def out_of_memory(**options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore of it")

    monkeypatch.setattr(table, "ours", out_of_memory)
    monkeypatch.setitem(sys.modules, "peft", None)
    rows = dict(table.rows())
    assert rows["ours, 4 draws"] == "OutOfMemoryError: CUDA out of memory."
    assert "peft" in rows["PEFT's LoRA of rank 4 in a plain loop, 1 draw"]
    assert rows["Textual Inversion, 1 draw"].milliseconds > 0


def test_learned_bases_are_measured_where_they_are_asked_for(tiny_weights, tiny_diffusion, tmp_path):
    words = [f"base={tiny_weights}/base", "lidb.a=4", "lidb.b=3", "hypernet.width=8", "hypernet.num_heads=2"]
    words += [f"hypernet.encoder={tiny_weights}/encoder", "accelerator=cpu", "num_steps=2"]
    operations = {}
    for learn_bases in (False, True):
        config = load(Benchmark, [*words, f"hypernet.learn_bases={learn_bases}"])
        work = Workloads(config, folder=tmp_path, device=CPU)
        assert len(work.pretraining()) == 2
        operations[learn_bases] = measure_cost(work.prediction, num_repeats=1, device=CPU).operations
    assert operations[True] > operations[False]  # a prediction then holds the fold


def test_a_base_of_configs_alone_is_drawn_at_random(measure, tiny_base, tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    names = {"unet": "config", "vae": "config", "text_encoder": "config", "scheduler": "scheduler_config"}
    for part, name in names.items():
        (tmp_path / "shapes" / f"{part}.json").write_text((tiny_base / part / f"{name}.json").read_text())
    monkeypatch.setattr("hdb.diffusion.random_base.TOKENIZER", tiny_base / "tokenizer")
    result, results = measure("base=shapes", "dtype=bfloat16", "num_pairs=1", "num_pictures=1", "batch_size=1")
    assert result == 0 and results["base"] == "shapes, random weights" and "bfloat16" in results["ceiling"]
    (tmp_path / "shapes" / "vae.json").unlink()
    with pytest.raises(ValueError, match=r"shapes lacks vae/config.json \(or vae.json\): expected a base or"):
        build_random_stable_diffusion(Path("shapes"), device=CPU, dtype=torch.float32)


def test_shapes_of_stable_diffusion_15_have_its_published_sizes():
    diffusion = build_random_stable_diffusion(ROOT / "configs/sd15", device=torch.device("meta"), dtype=torch.float32)
    sizes = {part: sum(weight.numel() for weight in getattr(diffusion, part).parameters()) for part in ("unet", "vae")}
    sizes["text_encoder"] = sum(weight.numel() for weight in diffusion.text_encoder.parameters())
    assert sizes == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    assert diffusion.latent_shape == (4, 64, 64) and diffusion.resolution == 512


def test_operations_of_both_directions_are_counted():
    layer, x = nn.Linear(8, 16), torch.randn(4, 8, requires_grad=True)
    once = lambda: [layer(x).sum().backward() or 1.0]  # noqa: E731
    assert (
        measure_cost(once, device=CPU).operations == 3 * 2 * 4 * 8 * 16
    )  # the output, and the gradients of x and weight
    layer.requires_grad_(False)  # a frozen layer has none of its weight
    assert measure_cost(once, device=CPU, num_steps=2).operations == 2 * 2 * 4 * 8 * 16 // 2


def test_fused_attention_on_a_cpu_is_counted():
    q, k, v = torch.randn(3, 2, 4, 32, 8, requires_grad=True)
    product = 2 * 2 * 4 * 32 * 32 * 8
    with torch.no_grad():
        measured = measure_cost(lambda: [scaled_dot_product_attention(q, k, v).sum().item()], device=CPU)
    assert measured.operations == 2 * product
    both = measure_cost(lambda: [scaled_dot_product_attention(q, k, v).sum().backward() or 1.0], device=CPU)
    assert both.operations >= 6 * product  # backward: four products, and one more where the weights are made again


def test_pairs_take_turns_in_who_is_first_and_the_warm_up_does_not_count():
    calls = []
    first, second = lambda: calls.append("a") or 6.0, lambda: calls.append("b") or 2.0
    assert paired_ratios(first, second, num_pairs=3) == [3.0, 3.0, 3.0]
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"


def test_ceiling_is_a_rate_that_a_small_product_does_not_pass():
    x = torch.randn(64, 64)
    product = measure_cost(lambda: [0.0 * (x @ x).sum().item() + 1.0], device=CPU)
    assert product.operations == 2 * 64**3
    assert matmul_ceiling(CPU, torch.float32) > 1e8


def test_unknown_settings_are_refused(measure, tiny_diffusion, capsys):
    with pytest.raises(ValueError, match="memory is 'tiny', expected normal or low"):
        prepare_for_device(tiny_diffusion, memory="tiny")
    assert measure("dtype=int8")[0] == 2
    assert "dtype is 'int8', expected one of float32, float16, bfloat16" in capsys.readouterr().err


def test_a_base_with_weights_is_benchmarked_as_well_as_one_of_shapes(tiny_base, tiny_diffusion):
    config = Benchmark(base=str(tiny_base), dtype="bfloat16")
    loaded = load_or_build_base(config, torch.device("cpu"))
    assert loaded.digest == tiny_diffusion.digest and loaded.dtype == torch.bfloat16
