"""Guidance: what a sampler takes for the denoiser's prediction, from those for a prompt and for none."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Real
from torch import Tensor

from hdb.diffusion.stable_diffusion import StableDiffusion

AsBase = Callable[[], AbstractContextManager[object]]  # within it nobody is bound to the base
Denoiser = Callable[[Float[Tensor, "m c h w"], Real[Tensor, ""]], Float[Tensor, "m c h w"]]  # of noisy latents at t


class ClassifierFreeGuidance:
    """Away from what is drawn without a prompt, towards what is drawn with it.

        prediction = person(nothing) + scale · (person(prompt) - person(nothing))

    Both are of the personalized base, whose text encoder is personalized too, so the empty prompt is encoded per
    person. This is what diffusers and others do with a LoRA.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, https://arxiv.org/abs/2207.12598
    """

    def __init__(self, diffusion: StableDiffusion, prompts: Sequence[str], *, num_people: int, scale: float) -> None:
        self.diffusion, self.scale = diffusion, scale
        self.prompts = diffusion.encode_prompts(list(prompts))
        if scale != 1:
            self.empty = diffusion.encode_prompts([""] * num_people).repeat(len(prompts) // num_people, 1, 1)

    def __call__(self, latents: Float[Tensor, "m c h w"], timestep: Real[Tensor, ""]) -> Float[Tensor, "m c h w"]:
        if self.scale == 1:
            return predictions(self.diffusion, latents, timestep, self.prompts)[0]
        nothing, prompt = predictions(self.diffusion, latents, timestep, self.empty, self.prompts)
        return nothing + self.scale * (prompt - nothing)


class IdentityGuidance:
    """Two scales, one for the prompt and one for the person.

        prediction = base(nothing) + scale · (base(prompt) - base(nothing)) + identity · (person(prompt) - base(prompt))

    Classifier-free guidance asks the personalized base twice. Much of what that knows of the person is in both answers
    and cancels out of their difference, so it is not strengthened as the prompt is. Here the prompt's strength is the
    base's, which has not forgotten it, and the person's is its own: 0 is the base's picture, 1 the person under the
    base's guidance.

    Paper: open. Here: the form of guidance by two conditions.

    Source: Brooks et al., InstructPix2Pix, section 3.2.1, https://arxiv.org/abs/2211.09800
    """

    def __init__(
        self, diffusion: StableDiffusion, prompts: Sequence[str], *, as_base: AsBase, scale: float, identity: float
    ) -> None:
        self.diffusion, self.as_base, self.scale, self.identity = diffusion, as_base, scale, identity
        self.prompts = diffusion.encode_prompts(list(prompts))
        with as_base():
            self.base_prompts = diffusion.encode_prompts(list(prompts))
            self.empty = diffusion.encode_prompts([""]).repeat(len(prompts), 1, 1)

    def __call__(self, latents: Float[Tensor, "m c h w"], timestep: Real[Tensor, ""]) -> Float[Tensor, "m c h w"]:
        (person,) = predictions(self.diffusion, latents, timestep, self.prompts)
        with self.as_base():
            nothing, base = predictions(self.diffusion, latents, timestep, self.empty, self.base_prompts)
        return nothing + self.scale * (base - nothing) + self.identity * (person - base)


def predictions(
    diffusion: StableDiffusion,
    latents: Float[Tensor, "m c h w"],
    timestep: Real[Tensor, ""],
    *embeds: Float[Tensor, "m l d"],
) -> tuple[Float[Tensor, "m c h w"], ...]:
    """What is predicted for each of several prompts of the same m pictures, in one batch, tiled."""
    noisy = torch.cat([latents] * len(embeds))
    noise_pred = diffusion.predict_noise(noisy, timestep.expand(len(noisy)), torch.cat(embeds))
    return noise_pred.float().chunk(len(embeds))
