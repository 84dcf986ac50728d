"""What ships is what REPORT.md says it is: the weights load, draw what is asked for, and stay under their limits."""

import json
from pathlib import Path

import pytest
import torch

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld.base import quality
from hdb.faceworld.splits import SPLITS
from hdb.faceworld.world import FaceWorld
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.residuals import Residuals
from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
from hdb.metrics.networks import AttributeClassifier

WEIGHTS = Path("hdb/faceworld/weights")


@pytest.fixture(scope="module")
def world() -> FaceWorld:
    """For all: to draw the first of the test people it draws the 2,200 before them."""
    return FaceWorld(resolution=64)


def test_a_known_prompt_gives_its_context_and_style():
    base = StableDiffusion.from_pretrained(WEIGHTS / "base").use_plain_attention()
    classifier = AttributeClassifier.from_folder(WEIGHTS / "classifier")
    prompts = ["a photo of a face in a forest", "a face, golden statue"] * 6
    drawn = quality.generate(base, prompts)
    seen = classifier.predict(drawn)
    assert seen["context"][::2] == ["forest"] * 6, seen  # what the words name, in every picture
    assert seen["style"][1::2] == ["gold"] * 6, seen
    clip = ClipEmbedder.from_pretrained(WEIGHTS / "clip")
    fit = (clip.embed_images(drawn) @ clip.embed_texts(prompts[:2]).T).unflatten(
        0, (6, 2)
    )  # pair, picture of, words of
    assert (fit[:, 0, 0] > fit[:, 1, 0]).float().mean() >= 0.95
    assert (fit[:, 1, 1] > fit[:, 0, 1]).float().mean() >= 0.95


def test_the_recognizer_knows_unseen_people_again(world):
    people = SPLITS["test"][:12]
    pictures = world.render([(world.identity(index), world.view(index, view)) for index in people for view in (0, 3)])
    recognizer = TimmEmbedder.from_folder(WEIGHTS / "recognizer")
    assert quality.verification(recognizer.embed_images(pictures).unflatten(0, (12, 2)))["auc"] >= 0.92


def test_the_shipped_hypernetwork_tells_unseen_people_apart(world):
    base = StableDiffusion.from_pretrained(WEIGHTS / "base").use_plain_attention()
    hypernet = HyperNet.from_folder(WEIGHTS / "hypernet", encoder=FaceEncoder.from_folder(WEIGHTS / "encoder")).eval()
    people = SPLITS["test"][:6]
    references = world.render([(world.identity(index), world.view(index, 0)) for index in people])
    with torch.no_grad():
        people = Residuals(hypernet(references), hypernet.layout)
    personalized, sampling = PersonalizedDiffusion(base, hypernet.layout), SamplingOptions(20, 3.0)
    drawn = personalized.pictures(people, ["a photo of a [V] face"] * 12, seeds=range(12), sampling=sampling)
    recognizer = TimmEmbedder.from_folder(WEIGHTS / "recognizer")
    likeness = recognizer.embed_images(drawn) @ recognizer.embed_images(references).T
    own = likeness[torch.arange(12), torch.arange(12) % 6]
    others = (likeness.sum(1) - own) / 5
    assert (own - others).mean() > 0.05


def test_the_hypernetwork_belongs_to_the_base_and_no_config_says_where_it_was_made():
    base = StableDiffusion.from_pretrained(WEIGHTS / "base")
    config = json.loads((WEIGHTS / "hypernet" / "config.json").read_text())
    assert config["base_digest"] == base.digest
    assert config["encoder_digest"] == FaceEncoder.from_folder(WEIGHTS / "encoder").digest
    for path in WEIGHTS.rglob("*.json"):
        assert not json.loads(path.read_text()).get("_name_or_path"), path


def test_the_autoencoder_keeps_what_unseen_people_look_like(world):
    base = StableDiffusion.from_pretrained(WEIGHTS / "base")
    people = SPLITS["test"][:8]
    pictures = world.render([(world.identity(index), world.view(index, view)) for index in people for view in range(3)])
    assert quality.reconstruction(base, pictures)["psnr"] >= 27


def test_weights_stay_under_their_limits():
    sizes = [path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()]
    assert max(sizes) <= 16e6 and sum(sizes) <= 80e6
