"""DreamBooth's step against plain code, and what it leaves behind."""

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch.callbacks import Callback
from torch.testing import assert_close

from hdb.diffusion.digest import compute_base_digest
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.weights import exchange_weights, named_weights, weights_checksum
from hdb.faces.framing import face_weight
from hdb.lidb.residuals import Residuals
from hdb.training.dreambooth import DreamBoothFinetuning
from hdb.training.options import DreamBoothOptions
from hdb.training.prior import Prior, draw_class_latents
from hdb.training.stage import private_generator


@pytest.fixture
def prior(personalized, latents) -> Prior:
    return Prior(latents[1:, 0], weight=0.5)


@pytest.mark.parametrize("mask", [None, "face"])
def test_one_step_is_that_of_plain_diffusers_code(personalized, latents, prior, trainer, mask):
    options = DreamBoothOptions(num_steps=1, lr=1e-3, batch_size=2, mask=mask)
    diffusion, reference = personalized.diffusion, latents[:1, 0]
    stage = DreamBoothFinetuning(personalized, reference=reference, options=options, prior=prior, seed=3)
    with exchange_weights(diffusion) as weights:
        running = trainer(max_steps=1)
        running.fit(stage)
        found, loss = {n: p.detach().clone() for n, p in weights.items()}, running.callback_metrics["train/loss"]

    unet, text_encoder, tokenizer = diffusion.unet, diffusion.text_encoder, diffusion.tokenizer
    scheduler = DDPMScheduler.from_config(diffusion.noise_schedule.config)
    generator = private_generator(3, 0, 0, 0)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(2, *diffusion.latent_shape, generator=generator)
        return noise, (torch.rand(2, generator=generator) * 1000).long()

    face = torch.from_numpy(face_weight(diffusion.latent_shape[-1]))
    photo_weight = torch.ones_like(face) if mask is None else face / face.mean()

    def loss_of(
        pictures: torch.Tensor, prompt: str, noise: torch.Tensor, timesteps: torch.Tensor, weight: torch.Tensor | float
    ) -> torch.Tensor:
        ids = tokenizer(prompt, padding="max_length", max_length=24, return_tensors="pt").input_ids
        states = text_encoder(ids)[0].expand(2, -1, -1)
        noisy = scheduler.add_noise(pictures, noise, timesteps)
        return (weight * (unet(noisy, timesteps, states).sample - noise).square()).mean()

    with exchange_weights(diffusion) as weights:
        for weight in weights.values():
            weight.requires_grad_(True)
        optimizer = torch.optim.AdamW(weights.values(), lr=1e-3)
        expected = loss_of(reference.expand(2, -1, -1, -1), "a [V] face", *draw(), photo_weight)
        rows = torch.randint(2, (2,), generator=generator)
        expected = expected + 0.5 * loss_of(prior.latents[rows], "a face", *draw(), 1.0)
        expected.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        for name, weight in weights.items():
            # Where a gradient is next to nothing, its sign, and so a step of Adam, hangs on rounding.
            assert ((found[name] - weight).abs() > 1e-5).double().mean() < 0.02, name
            assert (found[name] - weight).abs().max() <= 2.1e-3, name


def test_every_weight_moves_and_all_are_put_back_even_after_a_failure(personalized, latents, prior, trainer):
    diffusion = personalized.diffusion
    before, digest = weights_checksum(named_weights(diffusion)), diffusion.digest
    start = {name: value.detach().clone() for name, value in named_weights(diffusion).items()}
    options = DreamBoothOptions(num_steps=3, lr=1e-3)

    class Broken(Callback):
        def on_train_batch_end(self, *args, **kwargs):
            raise RuntimeError("the power failed")

    for callbacks in ([], [Broken()]):
        stage = DreamBoothFinetuning(personalized, reference=latents[:1, 0], options=options, prior=prior)
        running = trainer(max_steps=3, callbacks=callbacks)
        if callbacks:
            with pytest.raises(RuntimeError, match="the power failed"), exchange_weights(diffusion):
                running.fit(stage)
        else:
            with exchange_weights(diffusion) as weights:
                running.fit(stage)
                still = [name for name, weight in weights.items() if torch.equal(weight, start[name])]
                assert not still
            assert not stage.state_dict()
        now = compute_base_digest(diffusion.vae, diffusion.components)
        assert weights_checksum(named_weights(diffusion)) == before and now == digest
        assert not any(weight.requires_grad or weight.grad is not None for weight in named_weights(diffusion).values())


def test_class_pictures_are_the_bases_own_whoever_is_bound(personalized):
    few = SamplingOptions(num_inference_steps=2, guidance_scale=3.0, batch_size=2)
    expected = personalized.diffusion.encode_images(
        personalized.pictures(None, ["a face"] * 3, seeds=[5, 6, 7], sampling=few)
    )
    personalized.bind(Residuals(personalized.layout.initial_theta() + 1, personalized.layout))
    assert_close(draw_class_latents(personalized, num=3, sampling=few, seed=5), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="num_class_pictures is 0, expected at least 1"):
        draw_class_latents(personalized, num=0, sampling=few)


def test_prior_preservation_without_pictures_is_refused(personalized, latents):
    with pytest.raises(ValueError, match="prior_preservation is 1.0, but no class pictures were given"):
        DreamBoothFinetuning(personalized, reference=latents[:1, 0])
    DreamBoothFinetuning(personalized, reference=latents[:1, 0], options=DreamBoothOptions(prior_preservation=0.0))
