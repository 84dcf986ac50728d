"""What methods are built from: the base and Trainer they share, the options of each, a hypernetwork."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.hypernet.hypernet import HyperNet
from hdb.methods.options import MethodOptions
from hdb.methods.protocol import Method
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.prior import Prior, draw_class_latents


@dataclass(frozen=True)
class TrainingContext:
    """What every method that trains shares: the base, the instance prompt, the Trainer's arguments, the seed.

    Args:
        personalized: The base with LiDB layers of the layout that finetuning starts from.
        prompt: Instance prompt under which the photos are learned.
        trainer: Arguments of the Trainer: accelerator, precision, logger.
        sampling: How class pictures are drawn.
        dtype: Of the saved files, float16 or float32.
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
        """Latents of photos, in float32."""
        return self.diffusion.encode_images(images).float()

    def prior(self, weight: float, *, num_pictures: int) -> Prior | None:
        """Class pictures for prior preservation, or None if the weight is 0.

        They are drawn at the first call and shared by everyone.

        Raises:
            ValueError: A negative weight, or no pictures.
        """
        if weight < 0:
            raise ValueError(f"prior_preservation is {weight}, expected 0 or more")
        if not weight:
            return None
        if num_pictures not in self._class_latents:
            self._class_latents[num_pictures] = draw_class_latents(
                self.personalized, num=num_pictures, sampling=self.sampling, seed=self.seed
            )
        return Prior(self._class_latents[num_pictures], weight)

    def fit(self, stage: LightningModule, *, num_steps: int) -> None:
        """Trains a stage for `num_steps` optimizer steps."""
        defaults = {"devices": 1, "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        trainer = Trainer(max_steps=num_steps, **(defaults | dict(self.trainer)))
        trainer.fit(stage)


@dataclass(frozen=True)
class MethodContext:
    """What the rows of the table build their methods from.

    Args:
        training: What all methods that train share.
        hypernet: None if there is none; rows that need one then raise.
        oracle: The method that draws the true people, if the source of people has one.
        subjects: Folder with one folder of files per method, if there is one.
    """

    training: TrainingContext
    hypernet: HyperNet | None = None
    options: MethodOptions = field(default_factory=MethodOptions)
    oracle: Method | None = None
    subjects: Path | None = None

    def require_hypernet(self, method: str) -> HyperNet:
        """The hypernetwork, for a method that needs one.

        Raises:
            ValueError: There is none.
        """
        if self.hypernet is None:
            raise ValueError(f"{method} needs a hypernetwork and none was given: expected MethodContext(hypernet=...)")
        return self.hypernet
