"""What is said of a base and of a subject's file."""

import pytest

from experiments import inspect
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout


def said(capsys) -> dict[str, str]:
    return {line[:14].strip(): line[15:] for line in capsys.readouterr().out.splitlines()}


def test_stable_diffusion_15_is_counted_from_any_folder_without_its_weights(call, capsys):
    assert call(inspect, "base=sd15-config") == 0  # `call` runs in an empty folder
    rows = said(capsys)
    assert rows["slots"] == "192"
    assert rows["theta"] == "28800 numbers"
    assert rows["bytes"].startswith("115200 as float32")
    assert rows["rank-1 LoRA"].startswith("385344 numbers")


def test_a_base_in_a_folder_is_counted_and_one_of_another_family_refused(call, tiny_base, tmp_path, capsys):
    assert call(inspect, f"base={tiny_base}", "lidb.a=4", "lidb.b=3", "lidb.rank=2") == 0
    rows = said(capsys)
    assert int(rows["theta"].split()[0]) == 2 * (4 + 3) * int(rows["slots"])
    other = tmp_path / "sd3"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    assert call(inspect, f"base={other}") == 2
    assert "holds a StableDiffusion3Pipeline: expected a StableDiffusionPipeline" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sd21-config", "sd15"])
def test_an_unknown_name_is_refused(call, capsys, name):
    assert call(inspect, f"base={name}") == 2
    assert f"no Stable Diffusion at {name}: expected a folder" in capsys.readouterr().err


def test_exports_say_what_they_are(call, tiny_base, capsys):
    diffusion = StableDiffusion.from_pretrained(tiny_base)
    layout = Layout.from_models(diffusion.components, a=4, b=3)
    subject = Subject(layout.initial_theta(), layout, {"base": "tiny", "base_digest": diffusion.digest})
    for format, kind in (("kohya", "kohya's format"), ("diffusers", "diffusers' format")):
        subject.export("lora.safetensors", format=format)
        assert call(inspect, "subject=lora.safetensors") == 0
        rows = said(capsys)
        assert kind in rows["kind"]
        assert rows["base"] == f"tiny ({diffusion.digest})"
        assert (rows["layers"], rows["rank"]) == (str(len(layout.slots)), str(layout.rank))
