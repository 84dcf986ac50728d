"""All stages as a user calls them, on a tiny base and a handful of people: what they write, and that they resume."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments import evaluate, export, faceworld, generate, inspect, personalize, preoptimize, pretrain
from hdb.diffusion import sampling
from hdb.files import read_safetensors_header, resolve_shipped
from hdb.hypernet import trained
from hdb.lidb.file import Subject
from hdb.training.curves import read_curve
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining

OF_THETA = ["only_hyper", "no_hyper", "hyperdreambooth"]
STORING = ["textual_inversion", "dreambooth_agg2", "lora_dreambooth", *OF_THETA]
METHODS = ["unpersonalized", "mean_theta", *STORING, "oracle"]  # of `make eval`
EVERY_METHOD = f"methods.names=[{','.join(METHODS)}]"


def interrupt(monkeypatch, owner: object, name: str, *, at: int) -> None:
    """Ctrl-C at the given call of a function, once."""
    real, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


def test_the_four_stages_in_a_row(call, capsys):
    assert call(preoptimize) == 0
    assert call(pretrain, "beta=0.1", "thetas=outputs/preoptimize") == 0
    folder = Path("outputs/pretrain")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["step"] == 4
    assert {"val/face_rec", "val/diffusion_loss", "val/own_minus_other"} <= set(metrics)
    assert {"val/dino", "val/clip_i", "val/clip_t"} <= set(metrics)
    assert Image.open(folder / "preview.png").width == 5 * 128  # the reference and four prompts

    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    assert call(personalize, "reference=face.png", "output=me.safetensors") == 0
    assert Path("me.png").is_file()
    capsys.readouterr()
    assert call(inspect, "subject=me.safetensors") == 0
    subject, said = Subject.load("me.safetensors"), capsys.readouterr().out.split()
    size = Path("me.safetensors").stat().st_size
    for fact in (subject.layout.digest, len(subject.layout.slots), subject.layout.size, size):
        assert str(fact) in said
    assert call(generate, "subject=me.safetensors", "num_pictures=2") == 0
    assert len(list(Path("outputs/generate").glob("00-*.png"))) == 2

    capsys.readouterr()
    assert call(evaluate, EVERY_METHOD) == 0
    assert "hypernetwork: outputs/pretrain/last.ckpt (the newest of make train)" in capsys.readouterr().out
    folder = Path("outputs/eval")
    results = json.loads((folder / "results.json").read_text())
    assert list(results["methods"]) == METHODS
    for method, entry in results["methods"].items():
        for score in ("face_rec", "dino", "clip_i", "clip_t"):
            low, high = entry[score]["ci95"]
            assert low <= entry[score]["mean"] <= high
            assert len(entry[score]["per_identity"]) == len(results["protocol"]["identities"]) == 3
            assert sum(entry[score]["per_identity"]) / 3 == pytest.approx(entry[score]["mean"], abs=1e-4)
        assert list(entry["prompted"]) == ["style", "context", "accessory"]
        assert list(entry["rank_1"]) == ["photo", "styled"]  # one prompt each
        assert (entry["bytes"] > 0) == (entry["seconds"] > 0) == (entry["seconds_alone"] > 0) == (method in STORING)
    assert results["protocol"]["gallery"] == 10  # all test people
    for end, place in (("unpersonalized", 0), ("oracle", 1)):
        for score, ends in results["scale"].items():  # judges of random weights tell some of them apart
            of = results["methods"][end][score]
            assert of["normalized"] == (pytest.approx(place) if ends["apart"] else None)
            assert ("reason" in of) == (not ends["apart"])
    assert "<h3>Scores and costs</h3>" in (folder / "report.html").read_text()
    assert Image.open(folder / "tradeoff.png").width > 500
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert len({line["path"] for line in lines}) == len(lines) == len(METHODS) * 3 * 2 * 2
    assert all((folder / line["path"]).is_file() and (folder / line["reference"]).is_file() for line in lines)
    assert Image.open(folder / "grid.png").width == 128 * (1 + 2 * 2)  # reference, then ours and the oracle per prompt


def test_every_stage_on_stable_diffusion_xl(call, tiny_sdxl, capsys):
    base = [f"base.path={tiny_sdxl}"]
    assert call(preoptimize, *base) == 0
    learning = ["thetas=outputs/preoptimize", "beta=0.1", "schedule.max_steps=2", "schedule.val_every=2"]
    assert call(pretrain, *base, *learning, "output_decay=0.1") == 0
    assert json.loads(Path("outputs/pretrain/metrics.json").read_text())["step"] == 2

    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    assert call(personalize, *base, "reference=face.png", "output=me.safetensors") == 0
    assert call(personalize, *base, "reference=face.png", "output=alone.safetensors", "method=no_hyper") == 0
    subject = Subject.load("me.safetensors")
    assert set(subject.layout.components) == {"unet", "text_encoder", "text_encoder_2"}
    capsys.readouterr()
    assert call(inspect, "subject=me.safetensors") == 0
    assert f"{len(subject.layout.slots)}" in capsys.readouterr().out

    drawing = [*base, "num_pictures=1", "prompts=[a [V] face]"]
    for subject_path in ("me.safetensors", "alone.safetensors"):
        assert call(generate, *drawing, f"subject={subject_path}", f"output={subject_path}-drawn") == 0
    guided = ["sampling.identity_guidance_scale=3", "subject=me.safetensors", "output=guided"]
    assert call(generate, *drawing, *guided) == 0
    drawn = {path.read_bytes() for path in Path().glob("*/00-*.png")}
    assert len(drawn) == 3

    few = ["protocol.num_identities=2", "protocol.num_prompts=1", "protocol.num_pictures=1"]
    assert call(evaluate, *base, *few, EVERY_METHOD) == 0
    results = json.loads(Path("outputs/eval/results.json").read_text())["methods"]
    assert list(results) == METHODS and all(results[method]["bytes"] > 0 for method in STORING)
    for kind in ("textual_inversion", "dreambooth_agg2"):
        stored = next(Path(f"outputs/eval/subjects/{kind}").glob("*.safetensors"))
        assert call(generate, *drawing, f"subject={stored}", f"output={kind}") == 0

    for format in ("kohya", "diffusers", "merged", "checkpoint"):
        end = "" if format == "merged" else ".safetensors"
        assert call(export, *base, "subject=me.safetensors", f"format={format}", f"output={format}{end}") == 0
    capsys.readouterr()
    single = [*drawing, "base.path=checkpoint.safetensors", f"base.config={tiny_sdxl}", "base.check=shapes"]
    assert call(generate, *single, "subject=me.safetensors", "scale=0", "output=single") == 0
    assert call(inspect, "subject=kohya.safetensors") == 0 and call(inspect, "base=merged") == 0
    assert f"layers         {len(subject.layout.slots)}" in capsys.readouterr().out


def test_a_plain_word_travels_from_pretraining_to_the_picture_and_to_what_a1111_writes(call, capsys):
    quick = ["beta=0", "thetas=null", "schedule.max_steps=1", "schedule.val_every=1"]
    assert call(pretrain, *quick, "identifier=sks") == 2
    assert "identifier is 'sks', 3 tokens of base: expected [V], or a rare word that is one" in capsys.readouterr().err
    assert call(pretrain, *quick, "identifier=q") == 0
    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    assert call(personalize, "reference=face.png", "output=me.safetensors") == 0
    about = Subject.load("me.safetensors").metadata
    assert (about["identifier"], about["instance_prompt"]) == ("q", "a q face")
    assert (about["prediction_type"], about["resolution"]) == ("epsilon", "64")
    assert call(generate, "subject=me.safetensors", "num_pictures=1", "prompts=[a [V] face,a q face,a face]") == 0
    drawn = [Path(f"outputs/generate/0{prompt}-me-0.png").read_bytes() for prompt in range(3)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert call(export, "subject=me.safetensors", "output=lora.safetensors") == 0
    fields = read_safetensors_header("lora.safetensors")[1]
    assert fields["modelspec.trigger_phrase"] == "a q face" and fields["modelspec.resolution"] == "64x64"
    assert json.loads(Path("lora.json").read_text())["activation text"] == "a q face"
    assert Image.open("lora.preview.png").size == (64, 64)  # the first picture that personalize drew


def test_preoptimize_resumes_to_the_same_thetas(call, monkeypatch):
    assert call(preoptimize, "output=whole") == 0
    interrupt(monkeypatch, Preoptimization, "training_step", at=4)  # the second step of the second shard
    assert call(preoptimize, "output=torn") == 130
    assert [path.name for path in Path("torn").glob("*.safetensors")] == ["thetas-00000.safetensors"]
    assert call(preoptimize, "output=torn") == 0
    for name in ("thetas-00000.safetensors", "thetas-00001.safetensors"):
        whole, torn = load_file(f"whole/{name}"), load_file(f"torn/{name}")
        assert whole["identities"].tolist() == torn["identities"].tolist()
        torch.testing.assert_close(whole["thetas"], torn["thetas"], rtol=0, atol=0)


def test_a_finished_folder_of_thetas_gets_the_number_of_an_encoder_without_a_new_fit(call, tiny_weights, capsys):
    words = ["faces.num_identities=10", "identities_per_shard=5", "num_steps=1"]
    assert call(preoptimize, *words) == 0
    folder = Path("outputs/preoptimize")
    fitted = {path: path.stat().st_mtime_ns for path in folder.glob("thetas-*")}
    losses = json.loads((folder / "metrics.json").read_text())
    assert call(preoptimize, *words, f"encoder={tiny_weights}/encoder") == 0
    assert {path: path.stat().st_mtime_ns for path in fitted} == fitted and len(fitted) == 2
    assert json.loads((folder / "metrics.json").read_text()) == losses
    known = json.loads((folder / "predictable.json").read_text())
    assert (known["num_fit"], known["num_scored"]) == (8, 2)
    assert f"{known['r2']:.1%} of theta" in capsys.readouterr().out
    assert call(preoptimize, f"encoder={tiny_weights}/encoder") == 2
    assert "how predictable 3 people are, expected at least 10" in capsys.readouterr().err


def test_a_hypernetwork_with_learned_bases_goes_the_whole_way(call, capsys):
    assert call(pretrain, "hypernet.learn_bases=true", "beta=1") == 2
    assert "with learned bases expected beta = 0" in capsys.readouterr().err
    assert call(pretrain, "hypernet.learn_bases=true") == 0
    for name in ("last.ckpt", "hypernet"):
        words = [
            f"hypernet=outputs/pretrain/{name}",
            "protocol.num_identities=2",
            "protocol.num_prompts=1",
            "protocol.num_pictures=1",
        ]
        assert call(evaluate, *words, f"output=eval-{name}", "methods.finetuning.basis=lidb") == 2
        assert "finetuning.basis is lidb, but the hypernetwork learned" in capsys.readouterr().err
        assert call(evaluate, *words, f"output=eval-{name}", *([EVERY_METHOD] if name == "last.ckpt" else [])) == 0
        for method, rank in (("only_hyper", 1), ("hyperdreambooth", 4)):
            layout = Subject.load(next(Path(f"eval-{name}/subjects/{method}").glob("*.safetensors"))).layout
            assert layout.free and layout.rank == rank
    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=1") == 0
    assert call(personalize, "reference=face.png", "output=me.safetensors") == 0
    assert call(generate, "subject=me.safetensors", "num_pictures=1") == 0


def test_pretrain_resumes_to_the_same_network(call, monkeypatch):
    assert call(pretrain, "output=whole") == 0
    interrupt(monkeypatch, HyperNetPretraining, "training_step", at=3)
    assert call(pretrain, "output=torn") == 130
    assert not Path("torn/metrics.json").exists()
    assert call(pretrain, "output=torn") == 0
    whole, torn = (torch.load(f"{name}/last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "torn"))
    assert whole.keys() == torn.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], torn[name], rtol=0, atol=0)
    whole, torn = (read_curve(name) for name in ("whole", "torn"))
    assert whole == torn and [step for step, _ in whole] == [1, 2, 3, 4]


def test_a_finished_run_is_set_aside_and_not_overwritten(call):
    assert call(preoptimize, "faces.num_identities=1") == 0
    first = Path("outputs/preoptimize/thetas-00000.safetensors").read_bytes()
    assert call(preoptimize, "faces.num_identities=1", "lr=0.02") == 0
    assert Path("outputs/preoptimize.1/thetas-00000.safetensors").read_bytes() == first
    assert Path("outputs/preoptimize/thetas-00000.safetensors").read_bytes() != first


def test_interrupted_personalize_leaves_the_earlier_file_as_it_was(call, tiny_weights, monkeypatch):
    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=0") == 0
    Path("me.safetensors").write_bytes(b"earlier")
    interrupt(monkeypatch, SubjectFinetuning, "training_step", at=2)
    words = ["reference=face.png", "output=me.safetensors", "overwrite=true", f"hypernet={tiny_weights}/hypernet"]
    assert call(personalize, *words) == 130
    assert Path("me.safetensors").read_bytes() == b"earlier"
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == [
        "face.png",
        "me.safetensors",
        "prompts.txt",
    ]


def test_evaluate_goes_on_with_the_files_it_has(call, tiny_weights, monkeypatch):
    words = [
        f"hypernet={tiny_weights}/hypernet",
        "protocol.num_identities=2",
        "protocol.num_prompts=1",
        "protocol.num_pictures=1",
    ]
    words.append(EVERY_METHOD)
    interrupt(monkeypatch, sampling, "sample", at=14)  # the class pictures, 12 of 6 methods, no_hyper's
    assert call(evaluate, *words) == 130
    kept = {path: path.stat().st_mtime_ns for path in Path("outputs/eval/subjects").glob("*/*.safetensors")}
    kept |= {path: path.stat().st_mtime_ns for path in Path("outputs/eval/images/only_hyper").glob("*/*.png")}
    assert len(kept) == 2 * len(STORING) + 2
    assert call(evaluate, *words) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(Path("outputs/eval/manifest.jsonl").read_text().splitlines()) == len(METHODS) * 2


def test_finetuning_within_bases_and_files_in_half_precision_are_one_override_away(call, tiny_weights, capsys):
    words = [
        f"hypernet={tiny_weights}/hypernet",
        "protocol.num_identities=2",
        "protocol.num_prompts=1",
        "protocol.num_pictures=1",
    ]
    sizes = {}
    for name, more in (
        ("lidb", lidb := ["methods.finetuning.basis=lidb", "methods.finetuning.lr=2e-2"]),
        ("half", [*lidb, "dtype=float16"]),
        ("free", []),
    ):
        assert call(evaluate, *words, f"output={name}", *more) == 0
        methods = json.loads(Path(name, "results.json").read_text())["methods"]
        sizes[name] = {method: methods[method]["bytes"] for method in OF_THETA}
        for method in OF_THETA:
            for path in Path(name, "subjects", method).glob("*.safetensors"):
                subject = Subject.load(path)
                assert subject.layout.free == (name == "free" and method != "only_hyper")
                assert subject.theta.dtype == (torch.float16 if name == "half" else torch.float32)
        assert f"{sizes[name]['hyperdreambooth']:.0f}" in capsys.readouterr().out
    layout = Subject.load(next(Path("lidb/subjects/only_hyper").glob("*.safetensors"))).layout
    assert sizes["half"]["hyperdreambooth"] == pytest.approx(
        sizes["lidb"]["hyperdreambooth"] - 2 * 4 * layout.size, abs=32
    )
    assert sizes["free"]["hyperdreambooth"] > 4 * layout.lora_size(rank=4)
    assert sizes["free"]["only_hyper"] == sizes["lidb"]["only_hyper"]


def test_the_newest_trained_hypernetwork_is_taken_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trained.resolve_hypernet_path(None) == resolve_shipped(trained.SHIPPED_HYPERNET)
    for age, name in enumerate(("pretrain", "pretrain.1")):
        path = Path("outputs") / name / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert trained.resolve_hypernet_path(None) == Path("outputs/pretrain/last.ckpt")
    assert trained.resolve_hypernet_path("mine") == Path("mine")
