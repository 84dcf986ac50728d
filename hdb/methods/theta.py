"""PersonalTheta: people as residuals of the base's LiDB layers, which is what most methods make of them."""

from collections.abc import Mapping, Sequence
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
    """The residuals of n people, kept as subjects' files.

    Args:
        dtype: of the files, float16 or float32.
        prompt: under which the photos were learned; files say it.
    """

    kind = THETA
    stores = "theta: factors of the residuals of the personalized layers"

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        residuals: Residuals,
        *,
        dtype: torch.dtype = torch.float32,
        prompt: str = INSTANCE_PROMPT,
    ) -> None:
        self.personalized, self.residuals, self.dtype, self.prompt = personalized, residuals, dtype, prompt

    @classmethod
    def load(
        cls, personalized: PersonalizedDiffusion, paths: Sequence[Path], *, dtype: torch.dtype = torch.float32
    ) -> "PersonalTheta":
        """Subjects' files, of any ranks and bases.

        Raises:
            ValueError: one is missing, damaged, or for another base.
        """
        people = [subject.to(torch.float32) for subject in _subjects(personalized.diffusion, paths)]
        return cls(personalized, Residuals.join(people), dtype=dtype)

    @classmethod
    def read(
        cls,
        diffusion: StableDiffusion,
        paths: Sequence[Path],
        *,
        scale: float | None = None,
        text_encoder_scale: float | None = None,
    ) -> "PersonalTheta":
        """The same for a base without LiDB layers, which gets them; everyone at the strength of their file.

        Args:
            scale: strength for everybody instead.
            text_encoder_scale: that of the text encoder's layers, if it differs.

        Raises:
            ValueError: as `load`, or the base reads another word for each of them in the place of [V].
        """
        subjects = _subjects(diffusion, paths)
        called = sorted({subject.metadata["identifier"] for subject in subjects})
        if len(called) > 1:
            raise ValueError(f"these people are called {' and '.join(called)} in prompts: expected one call for each")
        diffusion.set_identifier(called[0])
        scales = [subject.scale if scale is None else scale for subject in subjects]
        text_encoder_scales = None if text_encoder_scale is None else [text_encoder_scale] * len(subjects)
        people = Residuals.join([subject.to(torch.float32) for subject in subjects])
        return cls(
            PersonalizedDiffusion(diffusion, people.layout),
            people.rescale(scales, text_encoder_scales=text_encoder_scales),
        )

    def mix(self, weights: Sequence[float]) -> "PersonalTheta":
        """One person made of all of them; see `Residuals.mix`."""
        return PersonalTheta(self.personalized, self.residuals.mix(weights), dtype=self.dtype, prompt=self.prompt)

    def __len__(self) -> int:
        return len(self.residuals)

    def __getitem__(self, rows: list[int]) -> "PersonalTheta":
        return PersonalTheta(self.personalized, self.residuals[rows], dtype=self.dtype, prompt=self.prompt)

    @property
    def num_bytes(self) -> int:
        return self.residuals.layout.size * self.dtype.itemsize

    def subjects(self, about: Sequence[Mapping[str, str]]) -> list[Subject]:
        """Each person in the precision of the files, with their provenance."""
        base, theta, layout = self.personalized.diffusion, self.residuals.theta.to(self.dtype), self.residuals.layout
        made_for = {"base": base.name, "base_digest": base.digest, "identifier": base.identifier}
        made_for |= {"prediction_type": base.prediction_type, "resolution": str(base.resolution)}
        made_for["instance_prompt"] = replace_identifier(self.prompt, base.identifier)
        return [Subject(theta[row : row + 1], layout, made_for | of) for row, of in enumerate(about)]

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        for path, subject in zip(paths, self.subjects(about), strict=True):
            subject.save(path)

    def bound(self) -> AbstractContextManager[None]:
        return self.personalized.bound(self.residuals)

    def pictures(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions
    ) -> Float[Tensor, "m 3 h w"]:
        return self.personalized.pictures(self.residuals, prompts, seeds=seeds, sampling=sampling)


def _subjects(diffusion: StableDiffusion, paths: Sequence[Path]) -> list[Subject]:
    subjects = [Subject.load(path) for path in paths]
    for path, subject in zip(paths, subjects, strict=True):
        diffusion.check_compatible(subject.metadata["base_digest"], name=str(path), base_name=subject.metadata["base"])
    return subjects
