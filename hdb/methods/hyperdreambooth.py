"""HyperDreamBooth: predict, relax the rank, finetune; and the ablations and controls that leave out a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import predict
from hdb.lidb.residuals import Residuals
from hdb.methods.context import TrainingContext
from hdb.methods.protocol import Photos
from hdb.methods.theta import PersonalTheta
from hdb.training.options import FinetuningOptions
from hdb.training.personalize import SubjectFinetuning, check_finetuning


def predict_residuals(hypernet: HyperNet, photos: Photos, *, iterations: int | None = None) -> Residuals:
    """The residuals of the base's weights that the hypernetwork predicts for each person.

    Of several photos of one person it is the mean of the predictions.

    Args:
        iterations: Passes of the decoder. None is the number that the network was built with.
    """
    views = photos.views  # all photos of each person, (n, v, 3, h, w)
    thetas = predict(hypernet, views.flatten(0, 1), iterations=iterations)  # the numbers of a file, (n · v, p)
    return Residuals(thetas.unflatten(0, views.shape[:2]).mean(1), hypernet.layout)


@dataclass(frozen=True)
class Finetuner:
    """Rank-relaxed fast finetuning of people in a training context.

    Args:
        options: 40 steps at rank 4 by default.
    """

    context: TrainingContext
    options: FinetuningOptions = field(default_factory=FinetuningOptions)

    def finetune(self, photos: Photos, start: Residuals) -> PersonalTheta:
        """Finetunes all people together, each on all of their own photos.

        Args:
            start: One per person, or one for all.
        """
        context = self.context
        options = self.options
        views = photos.views
        stage = SubjectFinetuning(
            context.personalized,
            reference=context.latents(views.flatten(0, 1)).unflatten(0, views.shape[:2]),
            start=start,
            prompt=context.prompt,
            options=options,
            prior=context.prior(options.prior_preservation, num_pictures=options.num_class_pictures),
            photo_sides=photos.sides,
            seed=context.seed,
        )
        context.fit(stage, num_steps=options.num_steps)
        return PersonalTheta(context.personalized, stage.fitted, dtype=context.dtype, prompt=context.prompt)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        """Reads files of people that were finetuned before."""
        return PersonalTheta.load(self.context.personalized, paths, dtype=self.context.dtype)


class HyperDreamBooth:
    """The method of the paper.

        photo -> hypernetwork -> prediction of rank 1 -> relax to rank r -> finetune 40 steps -> personal theta

    Paper: one photo. Here: one or several; the prediction is the mean of those for each photo, and finetuning uses all.

    Args:
        hypernet: Trained for this base.
        finetuner: Relaxes the rank of the prediction and finetunes it.
        name: Of the row in the table.
        iterations: Passes of the decoder. None is the number that the network was built with.

    Raises:
        ValueError: The options of finetuning do not suit the predictions, see `check_finetuning`.

    Source: Ruiz et al., HyperDreamBooth, section 4, https://arxiv.org/abs/2307.06949
    """

    max_batch_size = None

    def __init__(
        self,
        hypernet: HyperNet,
        finetuner: Finetuner,
        *,
        name: str = "hyperdreambooth",
        iterations: int | None = None,
    ) -> None:
        check_finetuning(finetuner.options, hypernet.layout)
        finetuner.context.diffusion.set_identifier(hypernet.identifier)  # the one it was trained with
        self.hypernet = hypernet
        self.finetuner = finetuner
        self.name = name
        self.iterations = iterations

    def personalize(self, photos: Photos) -> PersonalTheta:
        prediction = predict_residuals(self.hypernet, photos, iterations=self.iterations)
        return self.finetuner.finetune(photos, start=prediction)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return self.finetuner.load(paths)


class NoHyper:
    """Finetuning without a hypernetwork, from the start that everyone shares.

    Raises:
        ValueError: The options of finetuning do not suit the base's layout.

    Source: Ruiz et al., HyperDreamBooth, section 5.3 ("No Hyper"), https://arxiv.org/abs/2307.06949
    """

    max_batch_size = None

    def __init__(self, finetuner: Finetuner, *, name: str = "no_hyper") -> None:
        self.layout = finetuner.context.personalized.layout
        check_finetuning(finetuner.options, self.layout)
        self.finetuner = finetuner
        self.name = name

    def personalize(self, photos: Photos) -> PersonalTheta:
        return self.finetuner.finetune(photos, start=Residuals.initial(self.layout))

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return self.finetuner.load(paths)


class OnlyHyper:
    """The hypernetwork's prediction without finetuning.

    Source: Ruiz et al., HyperDreamBooth, section 5.3 ("Only Hyper"), https://arxiv.org/abs/2307.06949
    """

    name = "only_hyper"
    max_batch_size = None

    def __init__(
        self, personalized: PersonalizedDiffusion, hypernet: HyperNet, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.personalized = personalized
        self.hypernet = hypernet
        self.dtype = dtype

    def personalize(self, photos: Photos) -> PersonalTheta:
        return PersonalTheta(self.personalized, predict_residuals(self.hypernet, photos), dtype=self.dtype)

    def load(self, paths: Sequence[Path]) -> PersonalTheta:
        return PersonalTheta.load(self.personalized, paths, dtype=self.dtype)


class MeanTheta:
    """The hypernetwork's mean theta, the same for everyone. A control that uses no photo."""

    name = "mean_theta"

    def __init__(self, personalized: PersonalizedDiffusion, hypernet: HyperNet) -> None:
        self.personalized = personalized
        self.hypernet = hypernet

    def personalize(self, photos: Photos) -> PersonalTheta:
        thetas = self.hypernet.mean_theta.detach().cpu().expand(len(photos), -1)
        return PersonalTheta(self.personalized, Residuals(thetas, self.hypernet.layout))


class SomebodyElse:
    """Another person's HyperDreamBooth file for everyone. A control that was finetuned, but on the wrong photo.

    Args:
        folder: The files <name>.safetensors that HyperDreamBooth made of the same people.
    """

    name = "somebody_else"

    def __init__(self, finetuner: Finetuner, folder: Path) -> None:
        self.finetuner = finetuner
        self.folder = folder

    def personalize(self, photos: Photos) -> PersonalTheta:
        """Reads the file of the next person for each, and that of the first for the last.

        Raises:
            ValueError: There is only one person, or a file is missing.
        """
        if len(photos) < 2:
            raise ValueError(f"{self.name} needs at least 2 people, given {len(photos)}: leave it out of methods")
        others = [*photos.names[1:], photos.names[0]]
        return self.finetuner.load([self.folder / f"{name}.safetensors" for name in others])
