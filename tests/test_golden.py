"""What files and digests of Stable Diffusion 1.x were before other families of bases were supported: they stay so."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from hdb.diffusion.families.table import PUBLISHED_CONFIGS
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.random_base import build_random_stable_diffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.weights import named_weights
from hdb.files import ROOT
from hdb.lidb.export import export_lora
from hdb.lidb.file import Subject
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
METADATA = {
    "base": "tiny",
    "base_digest": "0123456789abcdef",
    "scale": "0.75",
    "created": "2024-01-01T00:00:00+00:00",
    "hdb_version": "1",
    "source": "photo.png",
    "prediction_type": "epsilon",
    "resolution": "64",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_of(path: Path) -> bytes:
    """What a subject's file holds in alphabetical order, since the order in the header differs by process.

    Without the fields that were added later, and without the checksum, which covers them.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).numpy().tobytes().hex() for name in file.keys()}
        fields = file.metadata()
    for name in ("checksum", "reference_digest"):
        fields.pop(name, None)
    return json.dumps({"fields": fields, "tensors": tensors}, sort_keys=True).encode()


def summarize(tensor: Tensor) -> list[float]:
    """Three numbers that any change of the values would change."""
    values = tensor.double().flatten()
    ramp = torch.linspace(-1, 1, len(values), dtype=torch.float64)
    return [float(values.sum()), float(values.square().sum()), float(values @ ramp)]


def personalized_tiny(diffusion: StableDiffusion) -> tuple[PersonalizedDiffusion, Tensor]:
    layout = build_layout(diffusion, LiDBOptions(a=4, b=3, rank=2, seed=5))
    generator = torch.Generator().manual_seed(3)
    theta = layout.initial_theta() + 0.3 * torch.randn(2, layout.size, generator=generator)
    return PersonalizedDiffusion(diffusion, layout), theta


def measure(diffusion: StableDiffusion, folder: Path) -> dict[str, Any]:
    """All golden values of a tiny base. Exact ones are strings, those of other machines' arithmetic are numbers."""
    weights = named_weights(diffusion)
    personalized, theta = personalized_tiny(diffusion)
    layout = personalized.layout
    subject = Subject(theta[:1], layout, METADATA)
    values: dict[str, Any] = {
        "base digest": diffusion.digest,
        "autoencoder digest": diffusion.autoencoder_digest,
        "names of DreamBooth's weights": sha256("\n".join(weights).encode()),
        "layout digest": layout.digest,
        "free layout digest": layout.as_lora.digest,
        "slots": sha256("\n".join(slot.name for slot in layout.slots).encode()),
        "initial theta": sha256(layout.initial_theta().numpy().tobytes()),
        "subject": sha256(content_of(subject.save(folder / "subject.safetensors"))),
        "rescaled": sha256(
            Residuals(theta, layout).rescale([0.5, 1.0], text_encoder_scales=[0.25, 2.0]).theta.numpy().tobytes()
        ),
    }
    for format in ("kohya", "diffusers"):
        path = export_lora(subject, folder / f"{format}.safetensors", format)
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = file.metadata()
            tensors = torch.cat([file.get_tensor(name).flatten() for name in names])
        for name in ("modelspec.hash_sha256", "hdb_version"):  # of values, which differ in the last bit by machine
            metadata.pop(name, None)
        values[f"{format} names"] = sha256("\n".join(names).encode())
        values[f"{format} metadata"] = sha256(json.dumps(metadata, sort_keys=True).encode())
        values[f"{format} values"] = summarize(tensors)
    residuals = Residuals(theta.clone().requires_grad_(True), layout)
    generator = torch.Generator().manual_seed(4)
    latents, noise = torch.randn(2, 4, *diffusion.latent_shape, generator=generator)
    losses = personalized.denoising_losses(
        residuals, latents, ["a [V] face", "a face"], noise=noise, timesteps=torch.tensor([20, 700, 999, 0])
    )
    losses.sum().backward()
    values["losses"] = summarize(losses.detach())
    values["gradient"] = summarize(residuals.theta.grad)
    for scale in (None, 2.0):
        sampling = SamplingOptions(num_inference_steps=3, identity_guidance_scale=scale)
        pictures = personalized.pictures(
            Residuals(theta, layout), ["a [V] face", "a [V] hat"], seeds=[1, 2], sampling=sampling
        )
        values[f"pictures, identity guidance {scale}"] = summarize(pictures)
    return values


@pytest.mark.parametrize("name", GOLDEN["tiny"])
def test_tiny_stable_diffusion_gives_the_values_of_before(name, measured):
    expected = GOLDEN["tiny"][name]
    if isinstance(expected, str):
        assert measured[name] == expected
    else:
        assert measured[name] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def measured(tiny_base, tmp_path_factory):
    return measure(StableDiffusion.from_pretrained(tiny_base), tmp_path_factory.mktemp("golden"))


def test_shipped_base_and_published_shapes_keep_their_digests():
    shipped = StableDiffusion.from_pretrained(ROOT / "hdb/faceworld/weights/base")
    published = build_random_stable_diffusion(
        PUBLISHED_CONFIGS["sd15-config"], device=torch.device("meta"), dtype=torch.float32
    )
    digests = {
        "shipped base": shipped.digest,
        "shipped autoencoder": shipped.autoencoder_digest,
        "shipped layout": build_layout(shipped, LiDBOptions()).digest,
        "Stable Diffusion 1.5 on meta": published.digest,
        "layout of Stable Diffusion 1.5": build_layout(published, LiDBOptions()).digest,
    }
    assert digests == GOLDEN["digests"]
