"""A subject for other tools, as a user asks for it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from experiments import export
from hdb.diffusion.sheet import save_image
from hdb.files import read_safetensors_header
from hdb.lidb.adapter import LiDB
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout


@pytest.fixture
def base(tiny_base) -> StableDiffusionPipeline:
    """Read by diffusers alone, with the scheduler that this project samples with."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    return pipeline


@pytest.fixture(params=[False, True], ids=["lidb", "free"])
def person(request, call, base, tiny_diffusion) -> Subject:
    layout = Layout.from_models({"unet": base.unet, "text_encoder": base.text_encoder}, a=6, b=3, rank=2)
    layout = layout.as_lora if request.param else layout
    theta = layout.initial_theta() + 0.3 * torch.randn(1, layout.size, generator=torch.Generator().manual_seed(1))
    about = {"scale": "0.9", "base_digest": tiny_diffusion.digest, "base": "tiny", "consent": "given"}
    subject = Subject(theta, layout, about)
    subject.save("me.safetensors")
    return subject


def picture(pipeline: StableDiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    out = pipeline("a [V] face", num_inference_steps=4, guidance_scale=3.0, generator=generator, output_type="np")
    return out.images[0]


def bound(pipeline: StableDiffusionPipeline, subject: Subject, scale: float) -> np.ndarray:
    lidb = LiDB({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}, layout=subject.layout)
    lidb.bind(subject, scale=scale)
    drawn = picture(pipeline)
    lidb.detach()
    assert np.abs(drawn - picture(pipeline)).max() > 0.03
    return drawn


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
@pytest.mark.parametrize("scale", [None, 0.4])
def test_an_exported_lora_gives_the_picture_that_bind_gives(call, base, person, format, scale):
    expected = bound(base, person, scale or 0.9)
    words = [] if scale is None else [f"scale={scale}"]
    assert call(export, "subject=me.safetensors", f"format={format}", "output=lora.safetensors", *words) == 0
    base.load_lora_weights("lora.safetensors")
    assert np.abs(picture(base) - expected).max() < 1e-3
    assert read_safetensors_header("lora.safetensors")[1]["consent"] == "given"


def test_a_merged_folder_is_a_pipeline_that_gives_the_picture_that_bind_gives(call, base, person, tiny_base):
    expected = bound(base, person, 0.9)
    words = ["subject=me.safetensors", "format=merged", "output=merged", f"base.path={tiny_base}"]
    assert call(export, *words) == 0
    merged = StableDiffusionPipeline.from_pretrained("merged")
    assert isinstance(merged.scheduler, DDIMScheduler)
    assert np.abs(picture(merged) - expected).max() < 1e-3
    assert json.loads(Path("merged/subject.json").read_text()) == person.metadata
    assert not list(Path("merged").rglob("*.bin"))
    assert call(export, *words) == 2  # and never written over


def test_the_default_is_the_format_that_everybody_reads_with_the_picture_and_the_words_beside_it(call, person, capsys):
    save_image(Image.new("RGB", (64, 64), "teal"), "me.preview.png")
    assert call(export, "subject=me.safetensors", "output=ann.safetensors", "title=Ann") == 0
    said = capsys.readouterr().out
    assert "kohya: ComfyUI, A1111, kohya's scripts and diffusers read it" in said and "ann.preview.png" in said
    tensors, fields = read_safetensors_header("ann.safetensors")
    assert all(key.startswith(("lora_unet_", "lora_te_")) for key in tensors)
    assert fields["modelspec.title"] == "Ann" and fields["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert Image.open("ann.preview.png").size == (64, 64)
    assert json.loads(Path("ann.json").read_text())["activation text"] == r"a \[V\] face"
    assert call(export, "subject=me.safetensors", "output=ann.safetensors") == 0  # its own files are written over


def test_the_format_of_diffusers_says_who_cannot_read_it_and_a_missing_picture_is_said(call, person, capsys):
    assert call(export, "subject=me.safetensors", "output=ann.safetensors", "format=diffusers") == 0
    said = capsys.readouterr().out.splitlines()
    assert re.search("diffusers alone reads it: ComfyUI would apply a part .* A1111 none, without a word", said[-1])
    assert "without a picture: preview=PICTURE gives it one" in said[-2] and not Path("ann.preview.png").exists()
    assert not Path("ann.json").exists()  # nor does A1111 read it
    Path("ann.json").write_text('{"activation text": "mine"}')
    assert call(export, "subject=me.safetensors", "output=ann.safetensors") == 2
    assert "ann.json is there and not of an earlier call" in capsys.readouterr().err
    assert call(export, "subject=me.safetensors", "output=a.safetensors", "preview=nobody.png") == 2
    assert "nobody.png: no such file; expected a picture" in capsys.readouterr().err


def test_export_of_a_velocity_model_says_how_to_configure_other_programs(call, person, tiny_base, capsys):
    described = Path(shutil.copytree(tiny_base, "velocities"))
    scheduler = described / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "v_prediction"}))
    words = ["subject=me.safetensors", "format=checkpoint", "output=ann.safetensors", f"base.path={described}"]
    assert call(export, *words) == 0
    assert "it predicts velocities: tell ComfyUI by ModelSamplingDiscrete, A1111 by" in capsys.readouterr().out


def test_a_checkpoint_is_one_file_that_gives_the_picture_that_bind_gives(call, base, person, tiny_base):
    expected = bound(base, person, 0.9)
    words = ["subject=me.safetensors", "format=checkpoint", "output=ann.safetensors", f"base.path={tiny_base}"]
    assert call(export, *words) == 0
    read = StableDiffusionPipeline.from_single_file("ann.safetensors", config=str(tiny_base), local_files_only=True)
    read.scheduler = DDIMScheduler.from_config(base.scheduler.config)
    assert np.abs(picture(read) - expected).max() < 1e-3
    assert read_safetensors_header("ann.safetensors")[1]["modelspec.architecture"] == "stable-diffusion-v1"
    assert not Path("ann.json").exists()


@pytest.mark.parametrize(("name", "code"), [("float16", "F16"), ("bfloat16", "BF16")])
def test_a_whole_model_has_the_precision_and_size_of_the_base(call, tiny_base, tiny_diffusion, name, code):
    layout = Layout.from_models(tiny_diffusion.components, a=6, b=3)
    Subject(layout.initial_theta(), layout, {"base_digest": tiny_diffusion.digest}).save("me.safetensors")
    half = StableDiffusionPipeline.from_pretrained(tiny_base, torch_dtype=getattr(torch, name), safety_checker=None)
    half.save_pretrained("half")
    words = ["subject=me.safetensors", "base.check=shapes", "format=checkpoint"]  # rounded to bfloat16 it is another
    assert call(export, *words, "output=whole.safetensors", f"base.path={tiny_base}") == 0
    assert call(export, *words, "output=half.safetensors", "base.path=half") == 0
    assert call(export, *words, "output=again.safetensors", "base.path=half.safetensors", "base.config=half") == 0
    assert call(export, *words[:2], "format=merged", "output=folder", "base.path=half") == 0
    folder = [path for part in ("unet", "vae", "text_encoder") for path in Path("folder", part).glob("*.safetensors")]
    for path in [Path("half.safetensors"), Path("again.safetensors"), *folder]:
        dtypes = {entry["dtype"] for entry in read_safetensors_header(path)[0].values()}
        assert dtypes - {"I64"} == {code}
    assert Path("half.safetensors").stat().st_size < 0.6 * Path("whole.safetensors").stat().st_size


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_merge_leaves_nothing(call, person, tiny_base, monkeypatch, error):
    real = StableDiffusionPipeline.save_pretrained

    def torn(self, folder, **options):
        real(self, folder, **options)
        raise error

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", torn)
    before = sorted(Path().rglob("*"))
    words = ["subject=me.safetensors", "format=merged", "output=merged", f"base.path={tiny_base}"]
    assert call(export, *words) == (130 if error is KeyboardInterrupt else 2)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("format=onnx output=me.onnx", "format is 'onnx', expected one of kohya, diffusers, merged, checkpoint"),
        ("format=kohya output=me.ckpt", "output is 'me.ckpt', expected a file name ending in .safetensors"),
        ("format=merged output=me.safetensors", "me.safetensors is there already, expected the name of a new folder"),
        ("format=merged output=you.safetensors", "you.safetensors is called like a file, expected the name of a new"),
        ("format=merged output=merged", "me.safetensors belongs to base .*, expected [0-9a-f]{16}"),
        ("scale=nan output=lora.safetensors", "scale is 'nan', expected a finite number"),
        ("", "output must be given: add output="),
    ],
)
def test_what_cannot_be_exported_is_refused(call, tiny_base, tiny_diffusion, capsys, words, message):
    layout = Layout.from_models(tiny_diffusion.components, a=6, b=3)
    Subject(layout.initial_theta(), layout, {"base_digest": "0ther"}).save("me.safetensors")
    before = sorted(Path().rglob("*"))
    assert call(export, "subject=me.safetensors", f"base.path={tiny_base}", *words.split()) == 2
    assert re.search(f"^error: .*{message}", capsys.readouterr().err.splitlines()[-1])
    assert sorted(Path().rglob("*")) == before
