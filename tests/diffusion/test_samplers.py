"""Every sampler that can be asked for against diffusers' own pipeline."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from hdb.diffusion.sampling import SAMPLERS, SamplingOptions, draw

PROMPTS = ["a face", "a face in the snow"]


@pytest.fixture(scope="module")
def pipeline(tiny_base) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_what_diffusers_draws_with_it(name, pipeline, tiny_diffusion):
    config = {**tiny_diffusion.noise_scheduler.config, "clip_sample": False}
    pipeline.scheduler = getattr(diffusers, name).from_config(config)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = pipeline(PROMPTS, num_inference_steps=5, guidance_scale=3.0, generator=generators, output_type="np").images
    ours = draw(tiny_diffusion, PROMPTS, seeds=[3, 4], sampling=SamplingOptions(5, 3.0, scheduler=name))
    assert np.abs(theirs - ours.permute(0, 2, 3, 1).numpy()).max() < 1e-3
    alone = draw(tiny_diffusion, PROMPTS[1:], seeds=[4], sampling=SamplingOptions(5, 3.0, scheduler=name))
    assert (alone[0] - ours[1]).abs().max() < 1e-3  # its noise is its own, on the way, too


def test_no_name_is_ddim_and_samplers_differ(tiny_diffusion):
    def drawn(name: str | None) -> torch.Tensor:
        return draw(tiny_diffusion, PROMPTS[:1], seeds=[0], sampling=SamplingOptions(4, 3.0, scheduler=name))

    assert torch.equal(drawn(None), drawn("DDIMScheduler"))
    assert (drawn("EulerAncestralDiscreteScheduler") - drawn(None)).abs().max() > 0.01
