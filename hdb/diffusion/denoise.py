"""The diffusion loss of the base under whatever is bound to it."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.condition import TextCondition
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
    condition: TextCondition,
    *,
    noise: Float[Tensor, "m c h w"],
    timesteps: Int[Tensor, " m"],
    weight: Float[Tensor, "h w"] | None = None,
    photo_sides: Int[Tensor, " m"] | None = None,
) -> DenoisingOutput:
    """Adds the noise to the latents and predicts it.

    Args:
        condition: Of one prompt per sample, or of fewer, which are tiled.
        weight: Weight of each latent position in the loss.
        photo_sides: Sides of the pictures in their photos in px, before they were resized. None if not known.
    """
    condition = condition.tile(len(latents) // len(condition))
    if photo_sides is not None:
        condition = diffusion.family.with_photo_sides(condition, photo_sides)
    noisy_latents = diffusion.add_noise(latents, noise, timesteps)
    noise_pred = diffusion.predict_noise(noisy_latents, timesteps, condition)
    target = diffusion.denoising_target(latents, noise, timesteps)
    losses = diffusion_loss(noise_pred, target, weight=weight, reduction="none")
    return DenoisingOutput(losses, noisy_latents, noise_pred)
