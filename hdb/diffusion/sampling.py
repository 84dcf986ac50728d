"""Many people and many prompts to pictures in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.limits import between
from hdb.prompts import IDENTIFIER, names_somebody


@dataclass
class SamplingOptions:
    """How pictures are drawn from a bound base; `batch_size` counts pictures.

    Of 1,000 noise levels at most 999 can be steps: with all of them DDIM's spacing reaches one that is not there.
    """

    num_inference_steps: int = between(50, 1, 999)
    guidance_scale: float = between(7.5, 0)
    batch_size: int = between(8, 1)


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
    prompt_embeds = diffusion.encode_prompts(list(prompts))
    empty = diffusion.encode_prompts([""] * num_people).repeat(len(prompts) // num_people, 1, 1)
    return diffusion.sample(
        prompt_embeds,
        seeds=list(seeds),
        negative_prompt_embeds=empty,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
    ).cpu()


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
