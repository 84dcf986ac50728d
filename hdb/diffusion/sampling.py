"""Many people and many prompts to pictures in one batch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.guidance import AsBase, ClassifierFreeGuidance, Denoiser, IdentityGuidance
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.transfer import moved
from hdb.limits import between, one_of
from hdb.prompts import IDENTIFIER, names_somebody

# By the names that diffusers has for them; those that need further libraries are left out.
SAMPLERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


@dataclass
class SamplingOptions:
    """How pictures are drawn from a bound base; `batch_size` counts pictures.

    `num_inference_steps` is how many steps a picture takes. `guidance_scale` is how much the prompt counts, 1 being
    without guidance.

    `identity_guidance_scale` is how much the person counts apart from the prompt, 0 drawing nobody and null guiding by
    the prompt alone, as other programs do. Who is drawn is compared with the base, which knows nobody, so a step
    asks the denoiser three times and not twice. The higher it is, the more of the person is drawn, and in the end of
    their photo.

    `scheduler` is the sampler, by the name that diffusers has for it, null DDIMScheduler. Of 1,000 noise levels at most
    999 can be steps: with all of them DDIM's spacing reaches one that is not there.
    """

    num_inference_steps: int = between(50, 1, 999)
    guidance_scale: float = between(7.5, 0)
    batch_size: int = between(8, 1)
    identity_guidance_scale: float | None = between(None, 0)
    scheduler: str | None = one_of(None, *SAMPLERS)

    @property
    def num_predictions(self) -> int:
        """Function evaluations a step: how many times the denoiser is asked about a picture of somebody."""
        if self.identity_guidance_scale is not None:
            return 3
        return 1 if self.guidance_scale == 1 else 2


@torch.no_grad()
def draw(
    diffusion: StableDiffusion,
    prompts: Sequence[str],
    *,
    num_people: int = 1,
    seeds: Sequence[int],
    sampling: SamplingOptions,
    as_base: AsBase | None = None,
) -> Float[Tensor, "m 3 h w"]:
    """One picture per prompt under what is bound, on the CPU; prompt i shows person i mod n.

    Args:
        num_people: n, as many as are bound.
        seeds: of the starting noise, one per prompt.
        as_base: a context within which nobody is bound; None if nobody is bound anyway, and guidance then is by the
            prompt alone, whatever the options say.

    Raises:
        ValueError: the number of prompts is no multiple of the number of people, or not that of the seeds.
    """
    if len(prompts) % num_people or not prompts:
        raise ValueError(f"{len(prompts)} prompts for {num_people} people: expected a multiple")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: expected one seed per picture")
    scale, identity = sampling.guidance_scale, sampling.identity_guidance_scale
    with diffusion.in_mixed_precision():
        denoiser: Denoiser
        if identity is None or as_base is None:
            denoiser = ClassifierFreeGuidance(diffusion, prompts, num_people=num_people, scale=scale)
        else:
            denoiser = IdentityGuidance(diffusion, prompts, as_base=as_base, scale=scale, identity=identity)
        return sample(diffusion, denoiser, seeds=seeds, sampling=sampling).cpu()


@torch.no_grad()
def sample(
    diffusion: StableDiffusion, denoiser: Denoiser, *, seeds: Sequence[int], sampling: SamplingOptions
) -> Float[Tensor, "n 3 h w"]:
    """Pictures in [0, 1], one per seed, whose noise is drawn on the CPU.

    A sampler that draws noise on the way draws it from each picture's own generator, as diffusers' pipelines do.

    Args:
        denoiser: predicts the noise of n noisy latents, guided.
    """
    # Not diffusers' pipeline: it guides only above a scale of 1 and by one scale, steps in the base's half precision,
    # and waits for the GPU at every step.
    scheduler = diffusion.sampling_scheduler(sampling.scheduler or SAMPLERS[0])
    scheduler.set_timesteps(sampling.num_inference_steps)  # on the CPU: a GPU would be asked at every step where it is
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(diffusion.latent_shape, generator=generator) for generator in generators])
    latents = moved(noise, diffusion.device) * scheduler.init_noise_sigma
    draws = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep, there in zip(scheduler.timesteps, moved(scheduler.timesteps, diffusion.device), strict=True):
        noise_pred = denoiser(scheduler.scale_model_input(latents, timestep), there)
        latents = scheduler.step(noise_pred, timestep, latents, **draws).prev_sample
    return diffusion.decode_latents(latents)


def tiled_batches(
    num_prompts: int, num_pictures: int, num_people: int, *, at_once: int
) -> list[list[tuple[int, int, int]]]:
    """Every (prompt, number, person), in batches of at most `at_once` that hold as many people as fit, tiled."""
    divided = []
    for first in range(0, num_people, at_once):
        people = range(first, min(first + at_once, num_people))
        spots = [(p, k, person) for p in range(num_prompts) for k in range(num_pictures) for person in people]
        size = at_once // len(people) * len(people)
        divided += [spots[start : start + size] for start in range(0, len(spots), size)]
    return divided


def prompt_remarks(diffusion: StableDiffusion, prompts: Sequence[str]) -> list[str]:
    """What a user should know before prompts are drawn: a sentence for each that is too long or names nobody."""
    remarks = []
    for prompt in prompts:
        length, read = diffusion.num_tokens(prompt), diffusion.max_tokens
        if length > read:
            remarks.append(f"{prompt!r} has {length} tokens, and the base reads {read} of them: the rest is left out")
        if not names_somebody(prompt, diffusion.identifier):
            remarks.append(f"{prompt!r} has no {IDENTIFIER}, the word that stands for the person")
    return remarks
