"""Textual Inversion: one learned token embedding per person, the base unchanged."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.sampling import draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.methods.context import TrainingContext
from hdb.methods.protocol import Photos
from hdb.methods.stored import check_person_file, write_person_file
from hdb.training.options import TextualInversionOptions
from hdb.training.textual_inversion import TextualInversionFitting, check_has_identifier


class TextualInversion:
    """Learns the embedding of the identifier, for many people in one batch.

    Raises:
        ValueError: The instance prompt lacks the identifier.

    Source: Gal et al., An Image is Worth One Word, https://arxiv.org/abs/2208.01618
    """

    name = "textual_inversion"
    max_batch_size = None

    def __init__(self, context: TrainingContext, options: TextualInversionOptions) -> None:
        check_has_identifier(context.prompt)
        self.context = context
        self.options = options

    def personalize(self, photos: Photos) -> "PersonalWords":
        context = self.context
        stage = TextualInversionFitting(
            context.personalized,
            reference=context.latents(photos.images),
            prompt=context.prompt,
            options=self.options,
            photo_sides=None if photos.sides is None else photos.sides[:, :1],
            seed=context.seed,
        )
        context.fit(stage, num_steps=self.options.num_steps)
        return PersonalWords(context.diffusion, stage.fitted, dtype=context.dtype)

    def load(self, paths: Sequence[Path]) -> "PersonalWords":
        return PersonalWords.from_files(self.context.diffusion, paths)


class PersonalWords:
    """A learned word for each of n people: an embedding that the text encoder reads in place of the identifier.

    Args:
        words: The embeddings.
        dtype: Of the files, float16 or float32.
    """

    kind = "word"

    def __init__(
        self, diffusion: StableDiffusion, words: Float[Tensor, "n d"], *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.diffusion = diffusion
        self.words = words
        self.dtype = dtype

    @classmethod
    def from_files(
        cls, diffusion: StableDiffusion, paths: Sequence[Path], *, scale: float | None = None
    ) -> "PersonalWords":
        """Reads people's files.

        Raises:
            ValueError: A file is missing, damaged, of another kind or for another base; a scale, which words lack.
        """
        if scale is not None:
            raise ValueError(f"scale is {scale}, but {paths[0]} holds a word, which has no strength: expected null")
        size = diffusion.word_size
        words = []
        for path in paths:
            check_person_file(path, kind=cls.kind, base=diffusion, shapes={"word": (1, size)})
            word = load_file(path)["word"]
            num_invalid = word.numel() - int(word.isfinite().sum())
            if num_invalid:
                raise ValueError(f"{path}: word has {num_invalid} values of {size} that are not finite, expected 0")
            words.append(word)
        return cls(diffusion, torch.cat(words).float(), dtype=words[0].dtype)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, rows: list[int]) -> "PersonalWords":
        return PersonalWords(self.diffusion, self.words[rows], dtype=self.dtype)

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        for path, word, provenance in zip(paths, self.words.to(self.dtype), about, strict=True):
            write_person_file(path, {"word": word[None]}, kind=self.kind, base=self.diffusion, about=provenance)

    def bound(self) -> AbstractContextManager[None]:
        return self.diffusion.word.bound(self.words)

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        with self.bound():
            return draw(
                self.diffusion,
                prompts,
                num_people=len(self),
                seeds=seeds,
                sampling=sampling,
                unbound=partial(self.diffusion.word.bound, None),
                callback_on_step_end=callback_on_step_end,
            )
