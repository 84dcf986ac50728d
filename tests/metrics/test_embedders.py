"""Embedders preprocess as their libraries do, and lie in folders."""

import json
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from facenet_pytorch.models import inception_resnet_v1
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from tiny import tiny_text_config, tiny_tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from hdb.faceworld.world import FaceWorld
from hdb.metrics.embedders import FACENET_WEIGHTS, ClipEmbedder, FaceNet, TimmEmbedder, timm_preprocessing
from hdb.metrics.networks import AttributeClassifier, Preprocessing

TINY_VIT = {"depth": 1, "embed_dim": 12, "num_heads": 2, "num_classes": 0}
HEADS = {"style": ["photo", "oil", "ice"], "accessory": ["none", "hat"]}


@pytest.fixture
def images() -> torch.Tensor:
    """Two pictures, smooth enough to be resized, not square."""
    noise = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (312, 234), mode="bilinear").clamp(0, 1)


def features(output: torch.Tensor | object) -> torch.Tensor:
    """What get_image_features returns: a tensor in transformers 4, a structure in 5."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "resnet18.a1_in1k", "vit_base_patch16_224.mae"])
def test_preprocessing_equals_timm_s_evaluation_transform(images, name):
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()))
    expected = torch.stack([transform(image) for image in images])
    assert (Preprocessing(**timm_preprocessing(name))(images) - expected).abs().max() < 1e-5
    # PIL rounds to 8 bit on its way: the same picture within that rounding, 2 / 255 / 0.225
    pil = torch.stack([transform(Image.fromarray(image)) for image in as_bytes(images)])
    assert (Preprocessing(**timm_preprocessing(name))(images) - pil).abs().max() < 0.035


def as_bytes(images: torch.Tensor) -> list[np.ndarray]:
    return [(image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for image in images]


def test_dino_embedding_equals_timm_s(images):
    embedder = TimmEmbedder(
        "vit_small_patch16_224.dino", TINY_VIT, **timm_preprocessing("vit_small_patch16_224.dino")
    ).eval()
    model = timm.create_model("vit_small_patch16_224", **TINY_VIT).eval()
    model.load_state_dict(embedder.network.state_dict())
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=embedder.network.pretrained_cfg))
    with torch.no_grad():
        expected = unit(model(torch.stack([transform(image) for image in images])))
    assert (embedder.embed_images(images) - expected).abs().max() < 1e-5


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A tiny random CLIP as transformers keeps it; resized to 40 px, cropped to 32."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tiny_text_config(tokenizer).to_dict(),
        vision_config={**vision, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    embedder = ClipEmbedder.from_parts(config, tokenizer)
    embedder.preprocess = Preprocessing(**{**embedder.preprocess.config, "crop_pct": 0.8})
    embedder.save(folder, dtype=torch.float32)
    return folder


def test_clip_images_equal_transformers(clip_folder, images):
    processor, model = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    pixels = processor.image_processor(images=list(images), do_rescale=False, return_tensors="pt")["pixel_values"]
    embedder = ClipEmbedder.from_pretrained(clip_folder)
    assert (embedder.preprocess(images) - pixels).abs().max() < 1e-5
    with torch.no_grad():
        expected = unit(features(model.get_image_features(pixel_values=pixels)))
    assert (embedder.embed_images(images) - expected).abs().max() < 1e-5


def test_clip_texts_equal_transformers(clip_folder):
    prompts = ["a face", "an oil face", "x"]
    processor, model = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        expected = unit(features(model.get_text_features(**processor(text=prompts, padding=True, return_tensors="pt"))))
    embedder = ClipEmbedder.from_pretrained(clip_folder)
    assert (embedder.embed_texts(prompts) - expected).abs().max() < 1e-5
    assert (embedder.embed_texts(prompts[2:]) - expected[2:]).abs().max() < 1e-5  # padding changes nothing


def test_too_long_a_prompt_is_said_and_cut(clip_folder):
    embedder = ClipEmbedder.from_pretrained(clip_folder)
    with pytest.warns(UserWarning, match="has 42 tokens; only the first 24 are read"):
        long = embedder.embed_texts(["x " * 40])
    assert torch.allclose(long, embedder.embed_texts(["x " * 22]), atol=1e-6)


@pytest.fixture(scope="module")
def facenet() -> FaceNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FaceNet(InceptionResnetV1())


def test_facenet_equals_facenet_pytorch_and_is_zero_without_a_face(facenet):
    world = FaceWorld(resolution=128)
    faces = world.render([(world.identity(0), world.view(0, 0)), (world.identity(1), world.view(1, 0))])
    blank = torch.full((1, 3, 128, 128), 0.5)
    vectors = facenet.embed_images(torch.cat([faces[:1], blank, faces[1:]]))
    detector = MTCNN()
    with torch.no_grad():
        expected = torch.stack([facenet.network(detector(Image.fromarray(face))[None])[0] for face in as_bytes(faces)])
    assert (vectors[[0, 2]] - expected).abs().max() < 1e-5
    assert (vectors[1] == 0).all()


def test_facenet_weights_come_from_a_folder(facenet, tmp_path):
    save_file(facenet.network.state_dict(), tmp_path / "model.safetensors")
    loaded = FaceNet.from_pretrained(tmp_path).network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in facenet.network.state_dict().items())


def test_missing_weights_are_one_sentence(tmp_path, monkeypatch, clip_folder):
    def no_network(*args: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(inception_resnet_v1, "download_url_to_file", no_network)
    with pytest.raises(
        ValueError, match=f"no route to host.*; put {FACENET_WEIGHTS} into {tmp_path}/torch/checkpoints"
    ):
        FaceNet.from_pretrained()
    with pytest.raises(ValueError, match=f"put {FACENET_WEIGHTS} there"):
        FaceNet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="config.json, model.safetensors missing in"):
        TimmEmbedder.dino(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a model that timm"):
        TimmEmbedder.dino("vit_of_mine")
    with pytest.raises(ValueError, match="preprocessor_config.json, tokenizer_config.json missing in"):
        ClipEmbedder.from_pretrained(tmp_path)
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(ValueError, match="^model.safetensors, preprocessor_config.json"):
        ClipEmbedder.from_pretrained(partial)


def test_pickled_code_in_facenet_weights_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"trap": Trap()}, tmp_path / FACENET_WEIGHTS)
    with pytest.raises(ValueError, match="holds no InceptionResnetV1"):
        FaceNet.from_pretrained(tmp_path)
    (tmp_path / FACENET_WEIGHTS).write_bytes(pickle.dumps({"conv": 1}, protocol=2))
    with pytest.raises(ValueError, match="holds no InceptionResnetV1"):
        FaceNet.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_timm_embedder_survives_its_folder_in_half_precision(images, tmp_path):
    embedder = TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32, seed=1).eval()
    embedder.save(tmp_path)
    loaded = TimmEmbedder.from_folder(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16, torch.int64}
    assert (loaded.embed_images(images) - embedder.embed_images(images)).abs().max() < 5e-3
    assert loaded.config == embedder.config and not any(p.requires_grad for p in loaded.parameters())
    assert not list(tmp_path.glob(".*.tmp"))
    loaded.save(tmp_path / "again")
    first, again = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_embeddings_carry_gradients_only_in_training(images):
    embedder = TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32)
    assert embedder(images).requires_grad and not embedder.embed_images(images).requires_grad


def test_building_a_network_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (
        TimmEmbedder("resnet10t", {"num_classes": 4}, resolution=32, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    weights = [embedder.network.get_classifier().weight for embedder in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_damaged_folders_are_one_sentence(tmp_path):
    TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, match in (
        ({"model": "resnet9999"}, "knows no model 'resnet9999'"),
        ({"kwargs": {"num_classes": 9}}, "do not fit.*size mismatch"),
        ({"colour": 1}, "holds no readable TimmEmbedder"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=match):
            TimmEmbedder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ValueError, match="holds no readable TimmEmbedder"):
        TimmEmbedder.from_folder(tmp_path)


def test_the_classifier_names_the_likeliest_answer_of_each_head(images, tmp_path):
    classifier = AttributeClassifier("resnet10t", heads=HEADS, resolution=32).eval()
    last = classifier.network.get_classifier()
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0]))
    classifier.save(tmp_path)
    loaded = AttributeClassifier.from_folder(tmp_path)
    assert loaded.predict(images) == {"style": ["ice"] * 2, "accessory": ["none"] * 2}
    assert loaded.heads == HEADS
