"""Many people and many prompts to pictures in one batch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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

    `scheduler` is the sampler, by the name that diffusers has for it, null DDIMScheduler. Of 1,000 noise levels at most
    999 can be steps: with all of them DDIM's spacing reaches one that is not there.
    """

    num_inference_steps: int = between(50, 1, 999)
    guidance_scale: float = between(7.5, 0)
    batch_size: int = between(8, 1)
    scheduler: str | None = one_of(None, *SAMPLERS)


@torch.no_grad()
def draw(
    diffusion: StableDiffusion,
    prompts: Sequence[str],
    *,
    num_people: int = 1,
    seeds: Sequence[int],
    sampling: SamplingOptions,
) -> Float[Tensor, "m 3 h w"]:
    """One picture per prompt under what is bound, on the CPU; prompt i shows person i mod n.

    The text encoder is personalized too, so the empty prompt of classifier-free guidance is encoded per person.

    Args:
        num_people: n, as many as are bound.
        seeds: of the starting noise, one per prompt.

    Raises:
        ValueError: the number of prompts is no multiple of the number of people.
    """
    if len(prompts) % num_people or not prompts:
        raise ValueError(f"{len(prompts)} prompts for {num_people} people: expected a multiple")
    with diffusion.in_mixed_precision():
        prompt_embeds = diffusion.encode_prompts(list(prompts))
        empty = diffusion.encode_prompts([""] * num_people).repeat(len(prompts) // num_people, 1, 1)
        return sample(diffusion, prompt_embeds, empty, seeds=seeds, sampling=sampling).cpu()


@torch.no_grad()
def sample(
    diffusion: StableDiffusion,
    prompt_embeds: Float[Tensor, "n l d"],
    negative_prompt_embeds: Float[Tensor, "n l d"],
    *,
    seeds: Sequence[int],
    sampling: SamplingOptions,
) -> Float[Tensor, "n 3 h w"]:
    """Pictures in [0, 1] with classifier-free guidance, one seed per picture, whose noise is drawn on the CPU.

    Both halves run as one batch ``cat([unconditional, conditional])``, over which the bound residuals of n people are
    tiled. A sampler that draws noise on the way draws it from each picture's own generator, as diffusers' pipelines do.

    Raises:
        ValueError: the number of seeds is not the number of prompts.
    """
    # Not diffusers' pipeline: it guides only above a scale of 1, steps in the base's half precision, and waits for the
    # GPU at every step.
    n = len(prompt_embeds)
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} prompts: expected one seed per picture")
    guided = sampling.guidance_scale != 1.0
    embeds = torch.cat([negative_prompt_embeds, prompt_embeds]) if guided else prompt_embeds
    scheduler = diffusion.sampling_scheduler(sampling.scheduler or SAMPLERS[0])
    scheduler.set_timesteps(sampling.num_inference_steps)  # on the CPU: a GPU would be asked at every step where it is
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(diffusion.latent_shape, generator=generator) for generator in generators])
    latents = moved(noise, diffusion.device) * scheduler.init_noise_sigma
    draws = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep, there in zip(scheduler.timesteps, moved(scheduler.timesteps, diffusion.device), strict=True):
        noisy = scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, timestep)
        noise_pred = diffusion.predict_noise(noisy, there.expand(len(noisy)), embeds).float()
        if guided:
            unconditional, conditional = noise_pred.chunk(2)
            noise_pred = unconditional + sampling.guidance_scale * (conditional - unconditional)
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
