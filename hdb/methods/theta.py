"""PersonalTheta: people as residuals of the base's LiDB layers, which is what most methods learn."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject
from hdb.lidb.residuals import Residuals
from hdb.methods.stored import THETA
from hdb.prompts import INSTANCE_PROMPT, replace_identifier


class PersonalTheta:
    """The residuals of n people, saved as one `Subject` file each.

    Args:
        dtype: Of the files, float16 or float32.
        prompt: Instance prompt under which the photos were learned, stored in the files.
    """

    kind = THETA

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        residuals: Residuals,
        *,
        dtype: torch.dtype = torch.float32,
        prompt: str = INSTANCE_PROMPT,
    ) -> None:
        self.personalized = personalized
        self.residuals = residuals
        self.dtype = dtype
        self.prompt = prompt

    @classmethod
    def load(
        cls, personalized: PersonalizedDiffusion, paths: Sequence[Path], *, dtype: torch.dtype = torch.float32
    ) -> "PersonalTheta":
        """Reads subjects' files, of any ranks and bases, for a base that has LiDB layers.

        Raises:
            ValueError: A file is missing, damaged, or for another base.
        """
        subjects = _load_subjects(personalized.diffusion, paths)
        residuals = Residuals.join([subject.to(torch.float32) for subject in subjects])
        return cls(personalized, residuals, dtype=dtype)

    @classmethod
    def from_files(
        cls,
        diffusion: StableDiffusion,
        paths: Sequence[Path],
        *,
        scale: float | None = None,
        text_encoder_scale: float | None = None,
    ) -> "PersonalTheta":
        """Reads subjects' files for a base without LiDB layers, and adds these to it.

        Args:
            scale: Strength of everyone; None is that stored in each file.
            text_encoder_scale: Strength in the text encoder; None is `scale`.

        Raises:
            ValueError: As `load`, or the files have different identifiers.
        """
        subjects = _load_subjects(diffusion, paths)
        identifiers = sorted({subject.metadata["identifier"] for subject in subjects})
        if len(identifiers) > 1:
            raise ValueError(
                f"these people are called {' and '.join(identifiers)} in prompts: expected one call for each"
            )
        diffusion.set_identifier(identifiers[0])
        scales = [subject.scale if scale is None else scale for subject in subjects]
        text_encoder_scales = None if text_encoder_scale is None else [text_encoder_scale] * len(subjects)
        residuals = Residuals.join([subject.to(torch.float32) for subject in subjects])
        personalized = PersonalizedDiffusion(diffusion, residuals.layout)
        return cls(personalized, residuals.rescale(scales, text_encoder_scales=text_encoder_scales))

    def mix(self, weights: Sequence[float]) -> "PersonalTheta":
        """One person mixed from all of them, see `Residuals.mix`."""
        return PersonalTheta(self.personalized, self.residuals.mix(weights), dtype=self.dtype, prompt=self.prompt)

    def __len__(self) -> int:
        return len(self.residuals)

    def __getitem__(self, rows: list[int]) -> "PersonalTheta":
        return PersonalTheta(self.personalized, self.residuals[rows], dtype=self.dtype, prompt=self.prompt)

    def subjects(self, about: Sequence[Mapping[str, str]]) -> list[Subject]:
        """The people as subjects in the dtype of the files.

        Args:
            about: Provenance of each: `source`, `consent`.
        """
        base = self.personalized.diffusion
        theta = self.residuals.theta.to(self.dtype)
        metadata = {
            "base": base.name,
            "base_digest": base.digest,
            "identifier": base.identifier,
            "prediction_type": base.prediction_type,
            "resolution": str(base.resolution),
            "instance_prompt": replace_identifier(self.prompt, base.identifier),
        }
        return [
            Subject(theta[row : row + 1], self.residuals.layout, {**metadata, **provenance})
            for row, provenance in enumerate(about)
        ]

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        for path, subject in zip(paths, self.subjects(about), strict=True):
            subject.save(path)

    def bound(self) -> AbstractContextManager[None]:
        return self.personalized.bound(self.residuals)

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        return self.personalized.pictures(
            self.residuals, prompts, seeds=seeds, sampling=sampling, callback_on_step_end=callback_on_step_end
        )


def _load_subjects(diffusion: StableDiffusion, paths: Sequence[Path]) -> list[Subject]:
    """Reads subjects and checks that they are for this base."""
    subjects = [Subject.load(path) for path in paths]
    for path, subject in zip(paths, subjects, strict=True):
        diffusion.check_compatible(subject.metadata["base_digest"], name=str(path), base_name=subject.metadata["base"])
    return subjects
