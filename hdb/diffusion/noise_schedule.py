"""NoiseSchedule: the noise levels that a base was trained on, on the device of the base."""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
from diffusers import DDPMScheduler
from diffusers.schedulers import SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor, nn


class NoiseSchedule(nn.Module):
    """Adds noise to latents, and computes velocities and clean latents.

    A module, so that its tensor moves with the base. That of diffusers' scheduler stays on the CPU and is copied to the
    GPU in every step, which waits for it.

    Args:
        scheduler: Any of diffusers' whose noise levels are DDPM's.

    Attributes:
        config: Of the scheduler, as diffusers' DDPMScheduler.
        prediction_type: What the denoiser predicts: `epsilon`, the noise, or `v_prediction`, the velocity.
    """

    alphas_cumprod: Float[Tensor, " t"]

    def __init__(self, scheduler: SchedulerMixin) -> None:
        super().__init__()
        ddpm = DDPMScheduler.from_config(scheduler.config)
        self.config: Mapping[str, Any] = ddpm.config
        self.prediction_type: str = ddpm.config.prediction_type
        self.register_buffer("alphas_cumprod", ddpm.alphas_cumprod, persistent=False)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoiseSchedule":
        """Moves the noise levels with the base, but keeps them in float32, whatever its precision."""
        alphas_cumprod = self.alphas_cumprod
        super()._apply(function, recurse)
        self.alphas_cumprod = alphas_cumprod.to(self.alphas_cumprod.device)
        return self

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def add_noise(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """√ᾱ · latents + √(1-ᾱ) · noise"""
        alpha_bar = self._alpha_bar(latents, timesteps)
        return alpha_bar**0.5 * latents + (1 - alpha_bar) ** 0.5 * noise

    def velocity(
        self, latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """√ᾱ · noise - √(1-ᾱ) · latents

        Source: Salimans and Ho, Progressive Distillation, arXiv 2202.00512, appendix D.
        """
        alpha_bar = self._alpha_bar(latents, timesteps)
        return alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * latents

    def clean(
        self, noisy_latents: Float[Tensor, "n c h w"], pred: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """The clean latents that a prediction implies.

            noise:    (noisy - √(1-ᾱ) · pred) / √ᾱ          velocity:    √ᾱ · noisy - √(1-ᾱ) · pred

        Source: Ho et al., arXiv 2006.11239, equation 15; Salimans and Ho, arXiv 2202.00512, appendix D.
        """
        alpha_bar = self._alpha_bar(noisy_latents, timesteps)
        if self.prediction_type == "epsilon":
            return (noisy_latents - (1 - alpha_bar).sqrt() * pred) / alpha_bar.sqrt()
        return alpha_bar.sqrt() * noisy_latents - (1 - alpha_bar).sqrt() * pred

    def sampler(self, name: str) -> SchedulerMixin:
        """A scheduler of diffusers for drawing, by the name of its class, with these noise levels.

        Clean latents are not clipped: they are no pixels in [-1, 1].
        """
        config = {**self.config, "clip_sample": False, "prediction_type": self.prediction_type}
        return getattr(diffusers, name).from_config(config)

    def _alpha_bar(self, latents: Float[Tensor, "n c h w"], timesteps: Int[Tensor, " n"]) -> Float[Tensor, "n 1 1 1"]:
        alphas_cumprod = self.alphas_cumprod.to(latents)
        return alphas_cumprod[timesteps.to(alphas_cumprod.device)][:, None, None, None]
