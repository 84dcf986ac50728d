"""Guidance: how the predictions with and without the prompt are combined into the one that the sampler steps along."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Real
from torch import Tensor

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.graphed_denoiser import GraphedDenoiser
from hdb.diffusion.stable_diffusion import StableDiffusion

# Opens a context in which no residuals are bound, so that the base predicts as it is.
UnboundContext = Callable[[], AbstractContextManager[object]]
# (noisy latents, timestep) -> guided noise prediction
Denoiser = Callable[[Float[Tensor, "m c h w"], Real[Tensor, ""]], Float[Tensor, "m c h w"]]


class ClassifierFreeGuidance:
    """Classifier-free guidance with the personalized model for both predictions.

        noise_pred = person("") + guidance_scale · (person(prompt) - person(""))

    The text encoder is personalized too, so the empty prompt is encoded once per person. This is what diffusers does
    with a LoRA.

    Args:
        prompts: m prompts; prompt i belongs to person i mod n.
        num_people: n, the number of people whose residuals are bound.
        guidance_scale: 1 disables guidance and saves the second prediction.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, https://arxiv.org/abs/2207.12598
    """

    def __init__(
        self, diffusion: StableDiffusion, prompts: Sequence[str], *, num_people: int, guidance_scale: float
    ) -> None:
        self.denoiser = GraphedDenoiser(diffusion)
        self.guidance_scale = guidance_scale
        self.condition = diffusion.encode_prompts(prompts)
        if guidance_scale != 1:
            self.negative_condition = diffusion.encode_prompts([""] * num_people).tile(len(prompts) // num_people)

    def __call__(self, latents: Float[Tensor, "m c h w"], timestep: Real[Tensor, ""]) -> Float[Tensor, "m c h w"]:
        if self.guidance_scale == 1:
            return predict_noise_for_each(self.denoiser, latents, timestep, [self.condition])[0]
        noise_pred_uncond, noise_pred_text = predict_noise_for_each(
            self.denoiser, latents, timestep, [self.negative_condition, self.condition]
        )
        return noise_pred_uncond + self.guidance_scale * (noise_pred_text - noise_pred_uncond)


class IdentityGuidance:
    """Guidance with two scales, one for the prompt and one for the identity.

        noise_pred = base("") + guidance_scale · (base(prompt) - base(""))
                              + identity_guidance_scale · (person(prompt) - base(prompt))

    In classifier-free guidance both predictions come from the personalized model. What they share of the identity
    cancels in their difference, so the identity is not amplified as the prompt is. Here the unmodified base guides
    towards the prompt, and the difference between the personalized model and the base guides towards the identity.
    An identity scale of 0 in all steps gives the base's picture.

    The first steps decide who is shown, the last ones in which manner. With an end below 1 the identity has its scale
    in the first steps alone, and a scale of 1 in the others.

    Paper: open. Here: the form of guidance by two conditions. Hybrid-model guidance (arXiv 2511.03156) also combines
    predictions of the base and of the personalized model.

    Args:
        prompts: m prompts; prompt i belongs to person i mod n of those that are bound.
        unbound: Opens a context in which no residuals are bound.
        guidance_scale: Scale of the prompt.
        identity_guidance_scale: Scale of the identity.
        identity_guidance_end: Share of the denoising process, in training timesteps, after which the identity's scale
            is 1. As `denoising_end` of diffusers' pipelines.

    Source: Brooks et al., InstructPix2Pix, section 3.2.1, https://arxiv.org/abs/2211.09800
    """

    def __init__(
        self,
        diffusion: StableDiffusion,
        prompts: Sequence[str],
        *,
        unbound: UnboundContext,
        guidance_scale: float,
        identity_guidance_scale: float,
        identity_guidance_end: float = 1.0,
    ) -> None:
        self.denoiser = GraphedDenoiser(diffusion)
        self.unbound = unbound
        self.guidance_scale = guidance_scale
        self.identity_guidance_scale = identity_guidance_scale
        self.last_timestep = (1 - identity_guidance_end) * diffusion.num_train_timesteps  # with that scale
        self.condition = diffusion.encode_prompts(prompts)
        with unbound():
            self.base_condition = diffusion.encode_prompts(prompts)
            self.negative_condition = diffusion.encode_prompts([""]).tile(len(prompts))

    def __call__(self, latents: Float[Tensor, "m c h w"], timestep: Real[Tensor, ""]) -> Float[Tensor, "m c h w"]:
        noise_pred_person = predict_noise_for_each(self.denoiser, latents, timestep, [self.condition])[0]
        with self.unbound():
            noise_pred_uncond, noise_pred_base = predict_noise_for_each(
                self.denoiser, latents, timestep, [self.negative_condition, self.base_condition]
            )
        is_before_end = timestep >= self.last_timestep  # a tensor: nothing waits for the GPU
        identity_scale = torch.where(is_before_end, self.identity_guidance_scale, 1.0)
        return (
            noise_pred_uncond
            + self.guidance_scale * (noise_pred_base - noise_pred_uncond)
            + identity_scale * (noise_pred_person - noise_pred_base)
        )


def predict_noise_for_each(
    denoiser: GraphedDenoiser,
    latents: Float[Tensor, "m c h w"],
    timestep: Real[Tensor, ""],
    conditions: Sequence[TextCondition],
) -> tuple[Float[Tensor, "m c h w"], ...]:
    """The noise predictions of the same m latents under each of several conditions, computed in one batch."""
    noisy_latents = torch.cat([latents] * len(conditions))
    timesteps = timestep.expand(len(noisy_latents))
    noise_pred = denoiser(noisy_latents, timesteps, TextCondition.cat(conditions))
    return noise_pred.float().chunk(len(conditions))
