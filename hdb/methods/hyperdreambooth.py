"""HyperDreamBooth: predict, relax the rank, finetune; and the methods that lack a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import predict
from hdb.lidb.residuals import Residuals
from hdb.methods.context import TrainingContext
from hdb.methods.protocol import Photos
from hdb.methods.theta import PersonalTheta
from hdb.training.finetuning_options import FinetuningOptions
from hdb.training.personalize import SubjectFinetuning


@dataclass(frozen=True)
class Finetuner:
    """The 40 steps that several methods end with, in a context."""

    context: TrainingContext
    options: FinetuningOptions = field(default_factory=FinetuningOptions)

    def finetune(self, views: Float[Tensor, "n v 3 h w"], start: Residuals) -> PersonalTheta:
        """All people together, each on their own photos, from one start for all or one for each."""
        context, options = self.context, self.options
        stage = SubjectFinetuning(
            context.personalized,
            reference=context.latents(views.flatten(0, 1)).unflatten(0, views.shape[:2]),
            start=start,
            prompt=context.prompt,
            options=options,
            prior=context.prior(options.prior_preservation, num_pictures=options.num_class_pictures),
            seed=context.seed,
        )
        context.fit(stage, num_steps=options.num_steps)
        return PersonalTheta(context.personalized, stage.fitted, dtype=context.dtype, prompt=context.prompt)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return PersonalTheta.load(self.context.personalized, paths, dtype=self.context.dtype)


def predicted(hypernet: HyperNet, photos: Photos, *, iterations: int | None = None) -> Residuals:
    """What the hypernetwork says of each person, of several photos the mean."""
    views = photos.views
    thetas = predict(hypernet, views.flatten(0, 1), iterations=iterations).unflatten(0, views.shape[:2])
    return Residuals(thetas.mean(1), hypernet.layout)


class HyperDreamBooth:
    """The hypernetwork's prediction, its rank relaxed, finetuned on the photo.

    Of several photos of one person the prediction is the mean of theirs, and finetuning sees all.
    Paper: one photo.

    Args:
        iterations: passes of the decoder; None is the network's own number.

    Raises:
        ValueError: finetuning is to stay within bases that the hypernetwork has left, or below its rank.

    Source: Ruiz et al., HyperDreamBooth, section 4, https://arxiv.org/abs/2307.06949
    """

    at_once = None

    def __init__(
        self,
        hypernet: HyperNet,
        finetuner: Finetuner,
        *,
        name: str = "hyperdreambooth",
        iterations: int | None = None,
    ) -> None:
        finetuner.options.check(hypernet.layout)
        finetuner.context.diffusion.set_identifier(hypernet.identifier)  # as when it was trained
        self.hypernet, self.finetuner = hypernet, finetuner
        self.name, self.iterations = name, iterations

    def personalize(self, photos: Photos) -> PersonalTheta:
        return self.finetuner.finetune(photos.views, predicted(self.hypernet, photos, iterations=self.iterations))

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return self.finetuner.load(paths)


class NoHyper:
    """Finetuning alone, from the start that everyone shares.

    Source: Ruiz et al., HyperDreamBooth, section 5.3 ("No Hyper"), https://arxiv.org/abs/2307.06949
    """

    at_once = None

    def __init__(self, finetuner: Finetuner, *, name: str = "no_hyper") -> None:
        finetuner.options.check(finetuner.context.personalized.layout)
        self.finetuner, self.name = finetuner, name

    def personalize(self, photos: Photos) -> PersonalTheta:
        return self.finetuner.finetune(photos.views, Residuals.initial(self.finetuner.context.personalized.layout))

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return self.finetuner.load(paths)


class OnlyHyper:
    """The prediction as it is, of several photos their mean.

    Source: Ruiz et al., HyperDreamBooth, section 5.3 ("Only Hyper"), https://arxiv.org/abs/2307.06949
    """

    name = "only_hyper"
    at_once = None

    def __init__(
        self, personalized: PersonalizedDiffusion, hypernet: HyperNet, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.personalized, self.hypernet, self.dtype = personalized, hypernet, dtype

    def personalize(self, photos: Photos) -> PersonalTheta:
        return PersonalTheta(self.personalized, predicted(self.hypernet, photos), dtype=self.dtype)

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


class SomebodyElse:
    """Everyone drawn with another person's HyperDreamBooth file: a control that has seen a photo, the wrong one.

    Args:
        folder: of the files that HyperDreamBooth made of the same people, <name>.safetensors.
    """

    name = "somebody_else"

    def __init__(self, finetuner: Finetuner, folder: Path) -> None:
        self.finetuner, self.folder = finetuner, folder

    def personalize(self, photos: Photos) -> PersonalTheta:
        """The next person's file for each, the first one's for the last.

        Raises:
            ValueError: there is nobody else, or no file of them yet.
        """
        if len(photos) < 2:
            raise ValueError(f"{self.name} needs at least 2 people, given {len(photos)}: leave it out of methods")
        others = [*photos.names[1:], photos.names[0]]
        return self.finetuner.load([self.folder / f"{name}.safetensors" for name in others])
