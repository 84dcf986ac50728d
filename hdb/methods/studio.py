"""Studio: what every method that trains works with: the base, the instance prompt, the machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.prior import Prior, class_latents


@dataclass(frozen=True)
class Studio:
    """Runs the stages of methods.

    Args:
        personalized: the base, with layers of the layout that HyperDreamBooth's steps start in.
        prompt: under which a photo is learned.
        trainer: arguments of the Trainer: accelerator, precision, logger.
        sampling: of class pictures.
        dtype: of the people's files.
    """

    personalized: PersonalizedDiffusion
    prompt: str = INSTANCE_PROMPT
    trainer: Mapping[str, Any] = field(default_factory=dict)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    dtype: torch.dtype = torch.float32
    _class_latents: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def diffusion(self) -> StableDiffusion:
        return self.personalized.diffusion

    def latents(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h8 w8"]:
        """Photos as the base sees them."""
        return self.diffusion.encode_images(images).float()

    def prior(self, weight: float, *, num_pictures: int) -> Prior | None:
        """Class pictures to preserve; None if they weigh nothing. Drawn when first asked for, the same for everybody.

        Raises:
            ValueError: a negative weight, or no pictures.
        """
        if weight < 0:
            raise ValueError(f"prior_preservation is {weight}, expected 0 or more")
        if not weight:
            return None
        if num_pictures not in self._class_latents:
            self._class_latents[num_pictures] = class_latents(
                self.personalized, num=num_pictures, sampling=self.sampling, seed=self.seed
            )
        return Prior(self._class_latents[num_pictures], weight)

    def fit(self, stage: LightningModule, *, num_steps: int) -> None:
        """Runs a stage to its end."""
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        Trainer(max_steps=num_steps, **({"devices": 1} | quiet | dict(self.trainer))).fit(stage)
