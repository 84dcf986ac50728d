"""Guidance against its formula."""

import pytest
import torch
from torch.testing import assert_close

from hdb.diffusion.guidance import ClassifierFreeGuidance, IdentityGuidance
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals

PROMPTS = ["a [V] face", "a [V] face in the snow", "a [V] face, oil painting", "a face"]
TIMESTEP = torch.tensor(500)


@pytest.fixture
def personalized(tiny_diffusion) -> PersonalizedDiffusion:
    return PersonalizedDiffusion(tiny_diffusion, build_layout(tiny_diffusion, LiDBOptions(a=6, b=4)))


@pytest.fixture
def people(personalized) -> Residuals:
    theta = personalized.layout.initial_theta().repeat(2, 1)
    return Residuals(theta + torch.randn(theta.shape, generator=torch.Generator().manual_seed(0)), personalized.layout)


@pytest.fixture
def noisy(personalized) -> torch.Tensor:
    shape = len(PROMPTS), *personalized.diffusion.latent_shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def predict(diffusion: StableDiffusion, noisy: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return diffusion.predict_noise(noisy, TIMESTEP.expand(len(noisy)), diffusion.encode_prompts(prompts))


@torch.no_grad()
@pytest.mark.parametrize(
    ("scale", "identity", "end", "identity_at_the_timestep"),
    [(3.0, 0.5, 1.0, 0.5), (1.0, 2.0, 0.5, 2.0), (0.0, 1.0, 1.0, 1.0), (3.0, 2.0, 0.49, 1.0), (3.0, 0.0, 0.0, 1.0)],
)
def test_identity_guidance_is_its_formula(personalized, people, noisy, scale, identity, end, identity_at_the_timestep):
    diffusion = personalized.diffusion
    base_uncond = predict(diffusion, noisy, [""] * 4)
    base_text = predict(diffusion, noisy, PROMPTS)
    with personalized.bound(people):
        person_text = predict(diffusion, noisy, PROMPTS)
        guided = IdentityGuidance(
            diffusion,
            PROMPTS,
            unbound=personalized.lidb.unbound,
            guidance_scale=scale,
            identity_guidance_scale=identity,
            identity_guidance_end=end,
        )(noisy, TIMESTEP)
        assert torch.equal(predict(diffusion, noisy, PROMPTS), person_text)  # the same residuals are still bound
    assert (person_text - base_text).abs().max() > 1e-3
    expected = base_uncond + scale * (base_text - base_uncond) + identity_at_the_timestep * (person_text - base_text)
    assert_close(guided, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_classifier_free_guidance_is_its_formula_with_the_personalized_model(personalized, people, noisy):
    diffusion = personalized.diffusion
    with personalized.bound(people):
        person_uncond = predict(diffusion, noisy, [""] * 4)
        person_text = predict(diffusion, noisy, PROMPTS)
        guided = ClassifierFreeGuidance(diffusion, PROMPTS, num_people=2, guidance_scale=3.0)(noisy, TIMESTEP)
    assert_close(guided, person_uncond + 3 * (person_text - person_uncond), rtol=0, atol=1e-4)


def test_pictures_are_guided_to_the_identity_until_its_end(personalized, people):
    def drawn(**settings: float | None) -> torch.Tensor:
        sampling = SamplingOptions(num_inference_steps=4, guidance_scale=3.0, **settings)
        return personalized.pictures(people, PROMPTS[:2], seeds=[0, 1], sampling=sampling)

    guided = drawn(identity_guidance_scale=4.0)
    at_one = drawn(identity_guidance_scale=1.0)
    assert torch.equal(drawn(identity_guidance_scale=4.0, identity_guidance_end=1.0), guided)
    assert torch.equal(drawn(identity_guidance_scale=4.0, identity_guidance_end=0.0), at_one)
    until_half = drawn(identity_guidance_scale=4.0, identity_guidance_end=0.5)
    assert not torch.equal(until_half, guided)
    assert not torch.equal(until_half, at_one)


def test_unbound_restores_the_residuals_after_an_error(personalized: PersonalizedDiffusion, people):
    with personalized.bound(people):
        before = {name: layer.down for name, layer in personalized.lidb.layers.items()}
        with pytest.raises(RuntimeError, match="the power failed"), personalized.lidb.unbound():
            assert all(layer.down is None for layer in personalized.lidb.layers.values())
            raise RuntimeError("the power failed")
        assert all(personalized.lidb.layers[name].down is down for name, down in before.items())


def test_residuals_bound_within_unbound_do_not_stay(personalized: PersonalizedDiffusion, people):
    with personalized.bound(people):
        down = next(iter(personalized.lidb.layers.values())).down
        with personalized.lidb.unbound():
            with personalized.bound(people[[0]]):
                assert len(next(iter(personalized.lidb.layers.values())).down) == 1
            assert next(iter(personalized.lidb.layers.values())).down is None
        assert next(iter(personalized.lidb.layers.values())).down is down


def test_people_who_are_bound_are_not_folded_again(personalized: PersonalizedDiffusion, people, monkeypatch):
    folds, fold = [], personalized.lidb._fold
    monkeypatch.setattr(personalized.lidb, "_fold", lambda *args, **kwargs: folds.append(1) or fold(*args, **kwargs))
    layer = next(iter(personalized.lidb.layers.values()))
    with personalized.bound(people):
        down, up = layer.down, layer.up
        with personalized.bound(people):
            assert layer.down is down and len(folds) == 1
        with personalized.bound(people, scale=0.5):
            assert len(folds) == 2 and torch.equal(layer.up, 0.5 * up)
        with personalized.lidb.unbound(), personalized.bound(people):
            assert len(folds) == 3 and torch.equal(layer.down, down)
        with personalized.bound(people[[0]]), personalized.bound(people):
            assert len(folds) == 5 and torch.equal(layer.down, down)
        assert layer.down is down
        people.theta.mul_(2)
        personalized.bind(people)  # as a training step does, whose theta has moved
        with personalized.bound(people):
            assert len(folds) == 7 and not torch.equal(layer.down, down)


def test_every_picture_has_a_seed(personalized: PersonalizedDiffusion, people):
    with pytest.raises(ValueError, match="1 seeds for 2 prompts: expected one seed per picture"):
        personalized.pictures(people, PROMPTS[:2], seeds=[0], sampling=SamplingOptions(2))


def test_the_number_of_unet_evaluations_is_what_the_options_say(personalized):
    batch_sizes: list[int] = []
    personalized.diffusion.unet.register_forward_pre_hook(lambda module, args: batch_sizes.append(len(args[0])))
    people = Residuals.initial(personalized.layout)
    for sampling in (SamplingOptions(4, 1.0), SamplingOptions(4), SamplingOptions(4, identity_guidance_scale=1.5)):
        batch_sizes.clear()
        personalized.pictures(people, ["a [V] face"], seeds=[0], sampling=sampling)
        assert sum(batch_sizes) == 4 * sampling.num_predictions
    batch_sizes.clear()
    personalized.pictures(None, ["a [V] face"], seeds=[0], sampling=SamplingOptions(4, identity_guidance_scale=1.5))
    assert sum(batch_sizes) == 4 * 2  # without residuals there is no identity to guide to
