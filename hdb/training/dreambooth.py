"""DreamBoothFinetuning: UNet and text encoders finetuned as a whole on one person."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.denoise import denoise
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.weights import named_weights
from hdb.faces.framing import face_weight
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.fitting import Steps
from hdb.training.options import DreamBoothOptions, check_mask
from hdb.training.prior import Prior
from hdb.training.stage import Stage


class DreamBoothFinetuning(Stage):
    """DreamBooth of one person on their one photo, at a constant rate as in the paper.

        loss = diffusion loss of the photo + weight · diffusion loss of class pictures

    This is the only stage that changes the base: it trains the base's own parameters. The caller keeps the original
    weights, see `hdb.diffusion.weights.exchange_weights`. The parameters are not part of this module or its checkpoint.

    Args:
        reference: Latents of the reference.
        prior: Class pictures, if the options ask for prior preservation.
        photo_side: Of the reference in its photo in px, before it was resized. None if not known.

    Raises:
        ValueError: An unknown mask, or prior preservation without class pictures.

    Source: Ruiz et al., DreamBooth, https://arxiv.org/abs/2208.12242
    """

    gradient_clip = 1.0  # largest norm of the gradient

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        reference: Float[Tensor, "1 c h w"],
        prompt: str = INSTANCE_PROMPT,
        options: DreamBoothOptions | None = None,
        prior: Prior | None = None,
        photo_side: int | None = None,
        seed: int = 0,
    ) -> None:
        options = options or DreamBoothOptions()
        check_mask(options.mask)
        super().__init__(personalized, timesteps=options.timesteps, seed=seed)
        if options.prior_preservation and prior is None:
            raise ValueError(f"prior_preservation is {options.prior_preservation}, but no class pictures were given")
        self.register_buffer("reference", reference.detach(), persistent=False)
        weight = torch.from_numpy(face_weight(reference.shape[-1])) if options.mask else None
        self.register_buffer("weight", weight, persistent=False)
        self.prompt = prompt
        self.options = options
        self.prior = prior
        self.photo_side = photo_side
        self.weights = named_weights(personalized.diffusion)

    def train_dataloader(self) -> Steps:
        return Steps(self.options.num_steps)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.personalized.bind(None)
        for parameter in self.weights.values():
            parameter.requires_grad_(True)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        num_draws = self.options.batch_size
        generator = self.step_generator(batch_idx)
        noise, timesteps = self.draw_noise(num_draws, generator)
        latents = self.reference.expand(num_draws, -1, -1, -1)
        sides = None
        if self.photo_side is not None:
            sides = torch.full((num_draws,), self.photo_side, device=self.device)
        loss = self.loss(latents, self.prompt, noise=noise, timesteps=timesteps, weight=self.weight, photo_sides=sides)
        self.log("train/diffusion_loss", loss.detach())
        if self.prior is not None:
            latents = self.prior.sample(num_draws, generator).to(self.device)
            noise, timesteps = self.draw_noise(num_draws, generator)
            prior_loss = self.loss(latents, self.prior.prompt, noise=noise, timesteps=timesteps)
            self.log("train/prior_loss", prior_loss.detach())
            loss = loss + self.prior.weight * prior_loss
        self.log("train/loss", loss.detach())
        return loss

    def loss(
        self,
        latents: Float[Tensor, "m c h w"],
        prompt: str,
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
        photo_sides: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, ""]:
        """The diffusion loss of pictures under one prompt."""
        condition = self.diffusion.encode_prompts([prompt])
        output = denoise(
            self.diffusion,
            latents,
            condition,
            noise=noise,
            timesteps=timesteps,
            weight=weight,
            photo_sides=photo_sides,
        )
        return output.losses.mean()

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *args: object, **kwargs: object) -> None:
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.gradient_clip)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.weights.values(), lr=self.options.lr)
