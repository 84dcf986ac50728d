"""Sampling: pictures of many people under many prompts in one batch."""

import inspect
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.guidance import ClassifierFreeGuidance, Denoiser, IdentityGuidance, UnboundContext
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.transfer import to_device
from hdb.prompts import IDENTIFIER, has_identifier

SMALL_VOCABULARY = 10_000  # tokens; CLIP's has 49,408, that of the shipped base 454


@torch.no_grad()
def draw(
    diffusion: StableDiffusion,
    prompts: Sequence[str],
    *,
    num_people: int = 1,
    seeds: Sequence[int],
    sampling: SamplingOptions,
    unbound: UnboundContext | None = None,
    callback_on_step_end: Callable[[int], None] | None = None,
) -> Float[Tensor, "m 3 h w"]:
    """Encodes the prompts and samples one picture for each, under the residuals that are bound; on the CPU.

    Args:
        prompts: m of them; prompt i shows person i mod n.
        num_people: n, the number of people whose residuals are bound.
        seeds: Of the initial noise, one per prompt.
        unbound: Opens a context in which no residuals are bound. None means that none are bound anyway; identity
            guidance has no meaning then, and classifier-free guidance is used whatever the options say.
        callback_on_step_end: Called with the number of each finished step, from 1 to `num_inference_steps`, or a few
            more for schedulers that evaluate some timesteps twice.

    Raises:
        ValueError: The number of prompts is no multiple of the number of people, or not that of the seeds.
    """
    if len(prompts) % num_people or not prompts:
        raise ValueError(f"{len(prompts)} prompts for {num_people} people: expected a multiple")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: expected one seed per picture")
    with diffusion.autocast():
        denoiser: Denoiser
        if sampling.identity_guidance_scale is None or unbound is None:
            denoiser = ClassifierFreeGuidance(
                diffusion, prompts, num_people=num_people, guidance_scale=sampling.guidance_scale
            )
        else:
            denoiser = IdentityGuidance(
                diffusion,
                prompts,
                unbound=unbound,
                guidance_scale=sampling.guidance_scale,
                identity_guidance_scale=sampling.identity_guidance_scale,
                identity_guidance_end=sampling.identity_guidance_end,
            )
        pictures = sample(
            diffusion, denoiser, seeds=seeds, sampling=sampling, callback_on_step_end=callback_on_step_end
        )
    return pictures.cpu()


@torch.no_grad()
def sample(
    diffusion: StableDiffusion,
    denoiser: Denoiser,
    *,
    seeds: Sequence[int],
    sampling: SamplingOptions,
    callback_on_step_end: Callable[[int], None] | None = None,
) -> Float[Tensor, "n 3 h w"]:
    """Samples one picture in [0, 1] per seed.

    Initial noise is drawn on the CPU from one generator per picture. Stochastic samplers draw from it as well, as in
    diffusers' pipelines.

    Args:
        denoiser: Predicts the guided noise of n noisy latents.
        callback_on_step_end: As in `draw`.
    """
    # Not a pipeline of diffusers: those guide by one scale and only above 1, step in the base's half precision, and
    # wait for the GPU in every step.
    scheduler = diffusion.sampling_scheduler(sampling.scheduler)
    scheduler.set_timesteps(sampling.num_inference_steps)  # on the CPU, where reading a timestep waits for no GPU
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(diffusion.latent_shape, generator=generator) for generator in generators])
    latents = to_device(noise, diffusion.device) * scheduler.init_noise_sigma
    # The scheduler gets timesteps on the CPU, the UNet gets the same ones on its device.
    device_timesteps = to_device(scheduler.timesteps, diffusion.device)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_kwargs = {"generator": generators} if takes_generator else {}
    for step, timestep in enumerate(scheduler.timesteps):
        noise_pred = denoiser(scheduler.scale_model_input(latents, timestep), device_timesteps[step])
        latents = scheduler.step(noise_pred, timestep, latents, **step_kwargs).prev_sample
        if callback_on_step_end is not None:
            callback_on_step_end(step + 1)
    return diffusion.decode_latents(latents)


def tiled_batches(
    num_prompts: int, num_pictures: int, num_people: int, *, max_batch_size: int
) -> list[list[tuple[int, int, int]]]:
    """All (prompt, picture, person) index triples in batches whose people are tiled, as LiDB layers expect them.

    A batch holds as many people as fit, each the same number of times: sample i of a batch of n people shows person
    i mod n.
    """
    batches = []
    for first_person in range(0, num_people, max_batch_size):
        people = range(first_person, min(first_person + max_batch_size, num_people))
        triples = [
            (prompt, picture, person)
            for prompt in range(num_prompts)
            for picture in range(num_pictures)
            for person in people
        ]
        batch_size = max_batch_size // len(people) * len(people)
        batches += [triples[start : start + batch_size] for start in range(0, len(triples), batch_size)]
    return batches


def prompt_warnings(diffusion: StableDiffusion, prompts: Sequence[str], *, has_person: bool = True) -> list[str]:
    """One sentence for each prompt that the base does not read as it was meant.

    It is longer than the text encoder reads, has words that the vocabulary of a small base lacks, or lacks [V]. CLIP's
    vocabulary has pieces for everything, so its base knows such words; they are named where they make a prompt long.

    Args:
        has_person: False for prompts to the base alone, which need no [V].
    """
    warnings = []
    for prompt in prompts:
        num_tokens = diffusion.num_tokens(prompt)
        is_cut = num_tokens > diffusion.max_tokens
        is_small = len(diffusion.tokenizer) < SMALL_VOCABULARY
        split_words = diffusion.split_words(prompt) if is_cut or is_small else []
        noun = "a word" if len(split_words) == 1 else "words"
        problems = []
        if is_cut:
            problems.append(
                f"has {num_tokens} tokens, and the base reads {diffusion.max_tokens} of them: the rest is left out"
            )
        if split_words and is_small:
            problems.append(f"has {noun} that the base does not know and reads in pieces: {', '.join(split_words)}")
        elif split_words:
            problems.append(f"has {noun} of several tokens: {', '.join(split_words)}")
        if has_person and not has_identifier(prompt, diffusion.identifier):
            problems.append(f"has no {IDENTIFIER}, the word that stands for the person")
        if problems:
            warnings.append(f"{prompt!r} {'; it '.join(problems)}")
    return warnings
