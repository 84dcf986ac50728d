"""Every sampler against diffusers' own pipeline, and the callback after each step."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from hdb.diffusion.options import SAMPLERS, SamplingOptions
from hdb.diffusion.sampling import draw

PROMPTS = ["a face", "a face in the snow"]


@pytest.fixture(scope="module")
def pipeline(tiny_base) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_equals_diffusers_pipeline(name, pipeline, tiny_diffusion):
    config = {**tiny_diffusion.noise_schedule.config, "clip_sample": False}
    pipeline.scheduler = getattr(diffusers, name).from_config(config)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = pipeline(
        PROMPTS, num_inference_steps=5, guidance_scale=3.0, generator=generators, output_type="np"
    ).images
    pictures = draw(tiny_diffusion, PROMPTS, seeds=[3, 4], sampling=SamplingOptions(5, 3.0, scheduler=name))
    assert np.abs(expected - pictures.permute(0, 2, 3, 1).numpy()).max() < 1e-3
    alone = draw(tiny_diffusion, PROMPTS[1:], seeds=[4], sampling=SamplingOptions(5, 3.0, scheduler=name))
    assert (alone[0] - pictures[1]).abs().max() < 1e-3  # a picture's noise does not depend on the others, at any step


def test_the_default_sampler_is_ddim_and_samplers_differ(tiny_diffusion):
    def sampled(name: str | None) -> torch.Tensor:
        return draw(tiny_diffusion, PROMPTS[:1], seeds=[0], sampling=SamplingOptions(4, 3.0, scheduler=name))

    assert torch.equal(sampled(None), sampled("DDIMScheduler"))
    assert (sampled("EulerAncestralDiscreteScheduler") - sampled(None)).abs().max() > 0.01


def test_the_callback_gets_the_number_of_each_finished_step_and_changes_nothing(tiny_diffusion):
    steps: list[int] = []
    sampling = SamplingOptions(4, 3.0)
    expected = draw(tiny_diffusion, PROMPTS[:1], seeds=[0], sampling=sampling)
    pictures = draw(tiny_diffusion, PROMPTS[:1], seeds=[0], sampling=sampling, callback_on_step_end=steps.append)
    assert steps == [1, 2, 3, 4]
    assert torch.equal(pictures, expected)
