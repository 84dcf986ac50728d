"""Damaged weights of judges are refused in one sentence with the file."""

from io import BytesIO

import pytest
import torch
from photo_files import put

from hdb.metrics.embedders import FACENET_WEIGHTS, FaceNet
from hdb.metrics.networks import AttributeClassifier

WEIGHTS = {
    "no bytes": b"",
    "one byte": b"\x80",
    "cut": b"PK\x03\x04" + bytes(20),
    "a page of a login": b"<!DOCTYPE html><html>",
    "a tensor": None,
}


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("name", [FACENET_WEIGHTS, "model.safetensors"])
def test_damaged_weights_are_a_sentence_with_the_file(tmp_path, name, case):
    content = WEIGHTS[case]
    if content is None:
        file = BytesIO()
        torch.save(torch.zeros(3), file)
        content = file.getvalue()
    put(tmp_path / name, content)
    with pytest.raises(ValueError, match=f"{name} (is empty|holds no InceptionResnetV1)") as refusal:
        FaceNet.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"<html>"])
def test_damaged_judges_are_a_sentence_with_the_file(tmp_path, name, content):
    AttributeClassifier("resnet10t", heads={"style": ["photo", "oil"]}, resolution=32).save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is empty|holds no readable AttributeClassifier)") as refusal:
        AttributeClassifier.from_folder(tmp_path)
    assert "\n" not in str(refusal.value)
