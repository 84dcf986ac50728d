"""One look at the frozen base: how well it denoises latents under what is bound to it."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.losses import diffusion_loss


class DenoisingOutput(NamedTuple):
    """What the base made of noisy latents, and its loss per sample."""

    losses: Float[Tensor, " m"]
    noisy_latents: Float[Tensor, "m c h w"]
    noise_pred: Float[Tensor, "m c h w"]


def denoise(
    diffusion: StableDiffusion,
    latents: Float[Tensor, "m c h w"],
    prompt_embeds: Float[Tensor, "k l d"],
    *,
    noise: Float[Tensor, "m c h w"],
    timesteps: Int[Tensor, " m"],
    weight: Float[Tensor, "h w"] | None = None,
) -> DenoisingOutput:
    """Adds the noise and asks the base for it.

    Args:
        prompt_embeds: k = m of them, or fewer that are tiled.
        weight: of each place in the loss.
    """
    prompt_embeds = prompt_embeds.repeat(len(latents) // len(prompt_embeds), 1, 1)
    noisy_latents = diffusion.add_noise(latents, noise, timesteps)
    noise_pred = diffusion.predict_noise(noisy_latents, timesteps, prompt_embeds)
    target = diffusion.denoising_target(latents, noise, timesteps)
    return DenoisingOutput(
        diffusion_loss(noise_pred, target, weight=weight, reduction="none"), noisy_latents, noise_pred
    )
