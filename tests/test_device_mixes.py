"""Tensors of a CPU among those of a GPU, named on a machine without one: forwards on torch's fake CUDA.

A fake tensor has a device and no numbers. It tells what the meta device of test_devices.py lets pass: embeddings,
linear layers and convolutions take a tensor of the CPU there. But the numbers on the CPU are fake, too, and who looks
at one raises: a training step, which asks what is a photo, and a sampler, which asks for its timesteps, stay with meta.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny import tiny_judges
from torch._subclasses.fake_tensor import FakeTensorMode

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.residuals import Residuals
from hdb.metrics.judges import Scores, load_classifier

GPU = torch.device("cuda:0")


@contextmanager
def faked(monkeypatch) -> Iterator[None]:
    """Within the `with` block there is a GPU, as far as shapes and devices go."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which asks for a real one
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a weight cannot become a fake in place
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def test_from_photos_to_theta_to_denoised_latents_all_is_on_the_gpu(tiny_weights, tiny_diffusion, monkeypatch):
    eyes = FaceEncoder.from_folder(tiny_weights / "encoder")
    net = HyperNet.from_folder(tiny_weights / "hypernet", encoder=eyes)
    personalized = PersonalizedDiffusion(tiny_diffusion, net.layout)
    with faked(monkeypatch):
        personalized.to(GPU), net.to(GPU)
        photos = torch.zeros(3, 3, 64, 64, device=GPU)
        people, latents = Residuals(net(photos), net.layout), tiny_diffusion.encode_images(photos)
        prompts, timesteps = ["a [V] face", "a face", ""], torch.zeros(3, dtype=torch.long)
        noise = {"noise": torch.zeros_like(latents), "timesteps": timesteps.to(GPU)}
        denoised = personalized.denoise(people, latents, prompts, **noise)
        pictures = tiny_diffusion.decode_latents(denoised.noise_pred)
    assert {of.device for of in (people.theta, latents, *denoised, pictures)} == {GPU}
    assert pictures.shape == (3, 3, 64, 64) and denoised.losses.shape == (3,)


def test_judges_with_their_texts_and_the_scores_are_on_the_gpu(tiny_weights, monkeypatch):
    judges = tiny_judges(tiny_weights)
    tells, scores = load_classifier(f"{tiny_weights}/judges/classifier"), Scores(judges)
    with faked(monkeypatch):
        for part in (*judges.values(), tells, *scores.metrics.values()):
            part.to(GPU)
        pictures = torch.zeros(3, 3, 48, 40, device=GPU)
        seen, told = judges.embed_images(pictures), tells(pictures)
        scores.update(seen, pictures, ["a face", "a face in the snow", ""], torch.arange(3))
        found = scores.compute()
    assert {of.device for of in (*seen.values(), *told.values(), *found.values())} == {GPU}


def test_a_tensor_left_on_the_cpu_is_named(tiny_diffusion, monkeypatch):
    tokenize = tiny_diffusion.tokenize
    monkeypatch.setattr(tiny_diffusion, "tokenize", lambda *args: tokenize(*args).cpu())
    with faked(monkeypatch), pytest.raises(RuntimeError, match="at least two devices"):
        tiny_diffusion.to(GPU).encode_prompts(["a face"])
