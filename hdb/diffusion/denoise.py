"""The diffusion loss of the base under whatever is bound to it."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.losses import diffusion_loss


class DenoisingOutput(NamedTuple):
    """The diffusion loss of each sample, and what it was computed from."""

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
    """Adds the noise to the latents and predicts it.

    Args:
        prompt_embeds: One per sample, or fewer that are tiled.
        weight: Weight of each latent position in the loss.
    """
    prompt_embeds = prompt_embeds.repeat(len(latents) // len(prompt_embeds), 1, 1)
    noisy_latents = diffusion.add_noise(latents, noise, timesteps)
    noise_pred = diffusion.predict_noise(noisy_latents, timesteps, prompt_embeds)
    target = diffusion.denoising_target(latents, noise, timesteps)
    losses = diffusion_loss(noise_pred, target, weight=weight, reduction="none")
    return DenoisingOutput(losses, noisy_latents, noise_pred)
