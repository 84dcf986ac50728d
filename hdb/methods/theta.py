"""PersonalTheta: people as residuals of the base's LiDB layers, which is what most methods learn."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
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
        """Reads subjects' files, of any ranks and bases.

        Raises:
            ValueError: A file is missing, damaged, or for another base.
        """
        subjects = [Subject.load(path) for path in paths]
        for path, subject in zip(paths, subjects, strict=True):
            metadata = subject.metadata
            personalized.diffusion.check_compatible(metadata["base_digest"], name=str(path), base_name=metadata["base"])
        residuals = Residuals.join([subject.to(torch.float32) for subject in subjects])
        return cls(personalized, residuals, dtype=dtype)

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
