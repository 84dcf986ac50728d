"""HyperDreamBooth: predict, relax the rank, finetune; and the methods that lack a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import predict
from hdb.lidb.residuals import Residuals
from hdb.methods.protocol import Photos
from hdb.methods.theta import PersonalTheta
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.personalize import FinetuningOptions, SubjectFinetuning


@dataclass(frozen=True)
class Finetuner:
    """The 40 steps that several methods end with.

    Args:
        personalized: of the layout that the steps start in.
        trainer: arguments of the Trainer: accelerator, precision, logger.
        dtype: of the subjects' files.
    """

    personalized: PersonalizedDiffusion
    options: FinetuningOptions = field(default_factory=FinetuningOptions)
    prompt: str = INSTANCE_PROMPT
    trainer: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def finetune(self, images: Float[Tensor, "n 3 h w"], start: Residuals) -> PersonalTheta:
        """All people together, each on their own photo, from one start for all or one for each."""
        stage = SubjectFinetuning(
            self.personalized,
            reference=self.personalized.diffusion.encode_images(images).float(),
            start=start,
            prompt=self.prompt,
            options=self.options,
            seed=self.seed,
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        Trainer(max_steps=self.options.num_steps, devices=1, **(quiet | dict(self.trainer))).fit(stage)
        return PersonalTheta(self.personalized, stage.fitted, dtype=self.dtype)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return PersonalTheta.load(self.personalized, paths, dtype=self.dtype)


class HyperDreamBooth:
    """The hypernetwork's prediction, its rank relaxed, finetuned on the photo.

    Raises:
        ValueError: finetuning shall stay within bases that the hypernetwork has left, or below its rank.

    Source: Ruiz et al., HyperDreamBooth, section 4, https://arxiv.org/abs/2307.06949
    """

    name = "hyperdreambooth"
    at_once = None

    def __init__(self, hypernet: HyperNet, finetuner: Finetuner) -> None:
        finetuner.options.check(hypernet.layout)
        self.hypernet, self.finetuner = hypernet, finetuner

    def personalize(self, photos: Photos) -> PersonalTheta:
        prediction = Residuals(predict(self.hypernet, photos.images), self.hypernet.layout)
        return self.finetuner.finetune(photos.images, prediction)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return self.finetuner.load(paths)


class NoHyper:
    """Finetuning alone, from the start that everyone shares.

    Source: Ruiz et al., HyperDreamBooth, section 5.3 ("No Hyper"), https://arxiv.org/abs/2307.06949
    """

    name = "no_hyper"
    at_once = None

    def __init__(self, finetuner: Finetuner) -> None:
        finetuner.options.check(finetuner.personalized.layout)
        self.finetuner = finetuner

    def personalize(self, photos: Photos) -> PersonalTheta:
        return self.finetuner.finetune(photos.images, Residuals.initial(self.finetuner.personalized.layout))

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return self.finetuner.load(paths)


class OnlyHyper:
    """The prediction as it is.

    Source: Ruiz et al., HyperDreamBooth, section 5.3 ("Only Hyper"), https://arxiv.org/abs/2307.06949
    """

    name = "only_hyper"
    at_once = None

    def __init__(
        self, personalized: PersonalizedDiffusion, hypernet: HyperNet, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.personalized, self.hypernet, self.dtype = personalized, hypernet, dtype

    def personalize(self, photos: Photos) -> PersonalTheta:
        prediction = Residuals(predict(self.hypernet, photos.images), self.hypernet.layout)
        return PersonalTheta(self.personalized, prediction, dtype=self.dtype)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return PersonalTheta.load(self.personalized, paths, dtype=self.dtype)


class MeanTheta:
    """What the hypernetwork knows of faces in general, the same for everyone: a control that sees no photo."""

    name = "mean_theta"

    def __init__(self, personalized: PersonalizedDiffusion, hypernet: HyperNet) -> None:
        self.personalized, self.hypernet = personalized, hypernet

    def personalize(self, photos: Photos) -> PersonalTheta:
        everyone = self.hypernet.mean_theta.detach().cpu().expand(len(photos), -1)
        return PersonalTheta(self.personalized, Residuals(everyone, self.hypernet.layout))
