"""`memory=low`: recomputed activations give the same thetas and networks, and really are recomputed."""

from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.datamodule import FaceLoader
from hdb.faces.sources import FaceSample, FaceSource
from hdb.hypernet.hypernet import build_hypernet
from hdb.hypernet.options import HyperNetOptions
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.training.options import FinetuningOptions, PretrainingOptions
from hdb.training.personalize import SubjectFinetuning
from hdb.training.pretrain import HyperNetPretraining


@pytest.fixture
def personalizable(tiny_base):
    """The tiny base with LiDB layers in it, and how often each of them has run."""

    def build(memory: str) -> tuple[PersonalizedDiffusion, Counter]:
        diffusion, runs = StableDiffusion.from_pretrained(tiny_base), Counter()
        if memory == "low":
            diffusion.use_less_memory()
        personalized = PersonalizedDiffusion(diffusion, build_layout(diffusion, LiDBOptions(a=6, b=4)))
        for name, layer in personalized.lidb.layers.items():
            layer.register_forward_hook(lambda *_, name=name: runs.update([name]))
        return personalized, runs

    return build


@pytest.fixture
def finetune(personalizable, latents, trainer):
    def run(memory: str, *, num_steps: int) -> tuple[torch.Tensor, Counter]:
        personalized, runs = personalizable(memory)
        layout = personalized.layout
        noise = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(3))
        start = Residuals(layout.initial_theta() + 0.05 * noise, layout)
        options = FinetuningOptions(rank=2, batch_size=2, num_steps=num_steps)
        stage = SubjectFinetuning(personalized, reference=latents[:, 0], start=start, options=options)
        trainer(max_epochs=1).fit(stage)
        return stage.fitted.theta, runs

    return run


def gradient(personalized: PersonalizedDiffusion) -> tuple[torch.Tensor, int]:
    """Of theta of three people, and the bytes that were kept for it."""
    diffusion, lidb = personalized.diffusion, personalized.lidb
    generator, kept = torch.Generator().manual_seed(0), {}
    theta = lidb.layout.initial_theta() + 0.1 * torch.randn(3, lidb.layout.size, generator=generator)
    lidb.bind(theta.requires_grad_())
    noisy_latents = torch.randn(3, *diffusion.latent_shape, generator=generator)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prompt_embeds = diffusion.encode_prompts(["a [V] face", "a face", "a [V] face, oil painting"])
        noise_pred = diffusion.predict_noise(noisy_latents, torch.tensor([10, 500, 990]), prompt_embeds)
    kept = sum(kept.values())
    return torch.autograd.grad(noise_pred.square().sum(), theta)[0], kept


def test_gradients_with_recomputation_equal_those_without(personalizable):
    (normal, _), (low, _) = (gradient(personalizable(memory)[0]) for memory in ("normal", "low"))
    assert normal.abs().amax(1).min() > 1e-3
    assert_close(low, normal, rtol=1e-5, atol=1e-5 * normal.abs().max().item())


def test_less_is_kept_for_backward(personalizable):
    (_, normal), (_, low) = (gradient(personalizable(memory)[0]) for memory in ("normal", "low"))
    assert low < 0.5 * normal


def test_every_lidb_layer_runs_again_in_backward_with_low_memory_only(finetune):
    for memory, expected in (("normal", 2), ("low", 4)):
        _, runs = finetune(memory, num_steps=2)
        assert set(runs.values()) == {expected}


def test_low_memory_finetunes_to_the_same_theta(finetune):
    (normal, _), (low, _) = (finetune(memory, num_steps=4) for memory in ("normal", "low"))
    assert_close(low, normal, rtol=0, atol=1e-5)


def test_low_memory_pretrains_the_same_network(personalizable, build_encoder, trainer):
    class Noise(FaceSource):
        def sample(self, index, rng):
            reference, target = torch.from_numpy(rng.random((2, 3, 64, 64), dtype="float32"))
            return FaceSample(reference, target, "a [V] face", index)

    networks = []
    for memory in ("normal", "low"):
        personalized, _ = personalizable(memory)
        options = HyperNetOptions(width=8, num_heads=2, iterations=1, linear_path=True)
        networks.append(build_hypernet(options, build_encoder(), personalized.layout))
        losses = PretrainingOptions(beta=0.0, warmup_steps=1)
        stage = HyperNetPretraining(personalized, networks[-1], options=losses)
        batches = FaceLoader(Noise(["a", "b"], seed=0), batch_size=2, shuffle=True)
        trainer(max_steps=3).fit(stage, batches)
    for low, normal in zip(networks[1].parameters(), networks[0].parameters(), strict=True):
        assert_close(low, normal, rtol=0, atol=1e-5)


def test_dropout_stays_off_though_blocks_recompute(personalizable):
    personalized, _ = personalizable("low")
    in_train_mode = [module for module in personalized.diffusion.modules() if module.training]
    assert in_train_mode and all(module.gradient_checkpointing for module in in_train_mode)


def test_pictures_coded_one_by_one_are_those_coded_together(personalizable):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together, alone = (personalizable(memory)[0].diffusion for memory in ("normal", "low"))
    latents = together.encode_images(images)
    assert_close(alone.encode_images(images), latents, rtol=1e-5, atol=1e-5)
    assert_close(alone.decode_latents(latents), together.decode_latents(latents), rtol=1e-5, atol=1e-5)
