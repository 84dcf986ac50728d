"""What travels between prompts and denoiser, and the noise levels: both are where the base is."""

import pytest
import torch
from diffusers import DDPMScheduler

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.denoise import denoise
from hdb.diffusion.noise_schedule import NoiseSchedule


@pytest.fixture
def condition() -> TextCondition:
    return TextCondition(torch.randn(2, 3, 4), torch.randn(2, 5), torch.arange(12.0).view(2, 6))


def parts(condition: TextCondition) -> list[torch.Tensor]:
    return [part for part in (condition.embeds, condition.pooled, condition.time_ids) if part is not None]


def assert_rows(condition: TextCondition, source: TextCondition, rows: list[int]) -> None:
    assert len(condition) == len(rows) and len(parts(condition)) == len(parts(source))
    for part, source_part in zip(parts(condition), parts(source), strict=True):
        assert torch.equal(part, source_part[rows])


@pytest.mark.parametrize("parts_of_it", ["all", "embeds alone"])
def test_all_parts_of_a_condition_stay_in_step(condition, parts_of_it):
    if parts_of_it != "all":
        condition = TextCondition(condition.embeds)
    assert_rows(condition.tile(2), condition, [0, 1, 0, 1])
    assert_rows(condition.repeat_interleave(2), condition, [0, 0, 1, 1])
    assert_rows(TextCondition.cat([condition, condition[[1]]]), condition, [0, 1, 1])
    assert_rows(condition[1:], condition, [1])
    assert {part.device.type for part in parts(condition.to(torch.device("meta")))} == {"meta"}
    assert {part.dtype for part in parts(condition.to(torch.float16))} == {torch.float16}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_schedule_computes_what_the_scheduler_of_diffusers_computes(prediction_type, dtype):
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type)
    schedule = NoiseSchedule(scheduler)
    latents, noise = torch.randn(2, 4, 4, 8, 8).to(dtype)
    timesteps = torch.tensor([0, 17, 500, 999])
    noisy_latents = schedule.add_noise(latents, noise, timesteps)
    assert torch.equal(noisy_latents, scheduler.add_noise(latents, noise, timesteps))
    velocity = schedule.velocity(latents, noise, timesteps)
    assert torch.equal(velocity, scheduler.get_velocity(latents, noise, timesteps))
    if dtype == torch.float32:
        pred = noise if prediction_type == "epsilon" else velocity
        for row, timestep in enumerate(timesteps[:3]):  # at the last one nearly nothing of the latents is left
            scheduler.set_timesteps(1000)
            expected = scheduler.step(pred[row], timestep, noisy_latents[row], generator=torch.Generator())
            clean = schedule.clean(noisy_latents[[row]], pred[[row]], timestep[None])[0].clamp(-1, 1)
            torch.testing.assert_close(clean, expected.pred_original_sample, atol=1e-4, rtol=1e-4)


def test_no_tensor_of_the_noise_schedule_stays_behind_when_the_base_moves(tiny_diffusion):
    diffusion = tiny_diffusion.to("meta")
    tensors = [value for value in vars(diffusion.noise_schedule).values() if isinstance(value, torch.Tensor)]
    tensors += [*diffusion.noise_schedule.buffers(), *diffusion.noise_schedule.parameters()]
    assert tensors and {tensor.device.type for tensor in tensors} == {"meta"}
    meta = torch.device("meta")
    latents = torch.empty(2, *diffusion.latent_shape, device=meta)
    timesteps = torch.empty(2, dtype=torch.long, device=meta)
    condition = TextCondition(torch.empty(1, 24, 16, device=meta))
    # A tensor on the CPU among those on meta would be an error, as one among those on a GPU would be a wait.
    for prediction_type in ("epsilon", "v_prediction"):
        diffusion.noise_schedule.prediction_type = prediction_type
        output = denoise(diffusion, latents, condition, noise=latents, timesteps=timesteps)
        clean = diffusion.predict_clean(output.noisy_latents, output.noise_pred, timesteps)
        assert {tensor.device.type for tensor in (*output, clean)} == {"meta"}


def test_noise_levels_stay_in_single_precision_in_a_base_of_half_precision(tiny_diffusion):
    before = tiny_diffusion.noise_schedule.alphas_cumprod.clone()
    tiny_diffusion.to(torch.float16)
    assert tiny_diffusion.dtype == torch.float16
    assert torch.equal(tiny_diffusion.noise_schedule.alphas_cumprod, before)
