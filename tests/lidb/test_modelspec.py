"""Metadata of exported files, key by key as ModelSpec and kohya's scripts document it."""

import base64
import hashlib
import io
import json

import pytest
import torch
from PIL import Image

from hdb.diffusion.sheet import thumbnail_data_url
from hdb.files import read_safetensors_header
from hdb.lidb.export import export_lora
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.lidb.modelspec import a1111_metadata, modelspec_fields
from hdb.lidb.slot import Slot

METADATA = {
    "base": "stable-diffusion-v1-5",
    "scale": "0.8",
    "created": "2026-05-17T09:30:00+00:00",
    "source": "me.png",
    "prediction_type": "epsilon",
    "resolution": "512",
}


def subject(*, width: int = 768, **metadata: str) -> Subject:
    names = ("attn1.to_k", "attn2.to_k", "attn2.to_v")
    block = "unet.mid_block.attentions.0.transformer_blocks.0"
    layout = Layout(tuple(Slot(f"{block}.{name}", width, 64, a=4, b=2) for name in names), rank=3)
    return Subject(layout.initial_theta() + 0.1, layout, METADATA | metadata)


@pytest.fixture
def fields(tmp_path) -> dict[str, str]:
    """The metadata of a LoRA for stable-diffusion-v1-5."""
    picture = thumbnail_data_url(Image.new("RGB", (64, 64), "teal"))
    return read_safetensors_header(
        export_lora(subject(), tmp_path / "ann.safetensors", title="Ann", thumbnail=picture)
    )[1]


def test_the_keys_of_modelspec_are_those_of_its_documentation(fields):
    values = {name.removeprefix("modelspec."): fields[name] for name in fields if name.startswith("modelspec.")}
    assert {name: values[name] for name in ("sai_model_spec", "architecture", "implementation", "title")} == {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-v1/lora",
        "implementation": "diffusers",
        "title": "Ann",
    }
    assert values["resolution"] == "512x512" and values["prediction_type"] == "epsilon"
    assert values["date"] == "2026-05-17T09:30:00+00:00"
    assert values["trigger_phrase"] == "a [V] face"
    assert values["usage_hint"] == r"Write a [V] face, at strength 1; in A1111, where brackets are markup, a \[V\] face"


def test_the_hash_is_that_of_the_tensor_data(fields, tmp_path):
    content = (tmp_path / "ann.safetensors").read_bytes()
    tensor_data = content[8 + int.from_bytes(content[:8], "little") :]
    assert fields["modelspec.hash_sha256"] == "0x" + hashlib.sha256(tensor_data).hexdigest()


def test_the_thumbnail_is_a_small_square_jpeg_in_a_data_url(fields):
    kind, _, content = fields["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (picture.format, picture.size) == ("JPEG", (256, 256))
    assert len(fields["modelspec.thumbnail"]) < 100_000  # ComfyUI reads no header of more than 8 MB


def test_the_keys_of_kohyas_scripts_are_complete(fields):
    assert {name: fields[name] for name in fields if name.startswith("ss_")} == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "3.0",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "stable-diffusion-v1-5",
        "ss_output_name": "ann",
        "ss_num_train_images": "1",
        "ss_tag_frequency": '{"1_ann": {"a [V] face": 1}}',
    }


def test_a_folded_scale_is_left_out_of_the_metadata(fields, tmp_path):
    assert "scale" not in fields and fields["source"] == "me.png"
    assert "A strength of 0.8 is folded into the weights: use them at 1." in fields["modelspec.description"]


@pytest.mark.parametrize(
    ("width", "prediction", "architecture", "version"),
    [
        (768, "epsilon", "stable-diffusion-v1", "sd_v1"),
        (768, "v_prediction", "stable-diffusion-v1", "sd_v1_v"),
        (1024, "epsilon", "stable-diffusion-v2-512", "sd_v2"),
        (1024, "v_prediction", "stable-diffusion-v2-768-v", "sd_v2_v"),
    ],
)
def test_each_family_of_bases_has_its_own_architecture(tmp_path, width, prediction, architecture, version):
    exported = subject(width=width, prediction_type=prediction)
    fields = read_safetensors_header(export_lora(exported, tmp_path / "me.safetensors"))[1]
    assert fields["modelspec.architecture"] == f"{architecture}/lora"
    assert modelspec_fields(exported, title="", content_hash="", lora=False)["modelspec.architecture"] == architecture
    assert modelspec_fields(exported, title="", content_hash="", lora=False)["modelspec.implementation"] == "sgm"
    assert (fields["ss_base_model_version"], fields["ss_v2"]) == (version, str(width == 1024))
    assert fields["modelspec.prediction_type"] == {"v_prediction": "v"}.get(prediction, prediction)
    assert a1111_metadata(exported)["sd version"] == ("SD2" if width == 1024 else "SD1")


def test_another_identifier_is_in_the_trigger_phrase_without_escaping(tmp_path):
    exported = subject(identifier="sks", instance_prompt="a sks face")
    fields = read_safetensors_header(export_lora(exported, tmp_path / "me.safetensors"))[1]
    assert fields["modelspec.trigger_phrase"] == "a sks face"
    assert fields["modelspec.usage_hint"] == "Write a sks face, at strength 1"
    assert json.loads(fields["ss_tag_frequency"]) == {"1_me": {"a sks face": 1}}
    assert a1111_metadata(exported)["activation text"] == "a sks face"
    assert a1111_metadata(subject())["activation text"] == r"a \[V\] face"


def test_unknown_values_are_left_out_and_diffusers_format_has_no_kohya_keys(tmp_path):
    plain = read_safetensors_header(
        export_lora(subject(resolution="", prediction_type=""), tmp_path / "me.safetensors")
    )[1]
    assert not {"modelspec.resolution", "modelspec.prediction_type", "modelspec.thumbnail"} & set(plain)
    assert plain["modelspec.title"] == "me"
    other = read_safetensors_header(export_lora(subject(), tmp_path / "other.safetensors", "diffusers"))[1]
    assert not [name for name in other if name.startswith("ss_")] and "modelspec.title" in other


def test_the_oldest_files_without_a_prompt_get_the_papers_one(tmp_path):
    old = subject()
    for name in ("instance_prompt", "identifier", "prediction_type", "resolution"):
        del old.metadata[name]
    loaded = Subject.load(old.save(tmp_path / "old.safetensors"))
    assert torch.equal(loaded.theta, old.theta)
    assert {name: loaded.metadata[name] for name in ("instance_prompt", "identifier", "resolution")} == {
        "instance_prompt": "a [V] face",
        "identifier": "[V]",
        "resolution": "",
    }
