"""Textual Inversion: one learned word per person, and the base as it is."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from hdb.diffusion.sampling import SamplingOptions, draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.methods.context import TrainingContext
from hdb.methods.protocol import Photos
from hdb.methods.stored import check_person, write_person
from hdb.training.textual_inversion import TextualInversionFitting, TextualInversionOptions, check_has_identifier


class TextualInversion:
    """Learns only the embedding of the identifier, of many people in one batch.

    Raises:
        ValueError: the instance prompt has no identifier.

    Source: Gal et al., An Image is Worth One Word, https://arxiv.org/abs/2208.01618
    """

    name = "textual_inversion"
    at_once = None

    def __init__(self, context: TrainingContext, options: TextualInversionOptions) -> None:
        check_has_identifier(context.prompt)
        self.context, self.options = context, options

    def personalize(self, photos: Photos) -> "PersonalWords":
        context = self.context
        stage = TextualInversionFitting(
            context.personalized,
            reference=context.latents(photos.images),
            prompt=context.prompt,
            options=self.options,
            seed=context.seed,
        )
        context.fit(stage, num_steps=self.options.num_steps)
        return PersonalWords(context.diffusion, stage.fitted, dtype=context.dtype)

    def load(self, paths: Sequence[Path]) -> "PersonalWords":
        return PersonalWords.read(self.context.diffusion, paths)


class PersonalWords:
    """A word for each of n people, which the text encoder reads in place of the identifier.

    Args:
        dtype: of the files, float16 or float32.
    """

    kind = "word"
    stores = "one vector: the embedding of the identifier"

    def __init__(
        self, diffusion: StableDiffusion, words: Float[Tensor, "n d"], *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.diffusion, self.words, self.dtype = diffusion, words, dtype

    @classmethod
    def read(cls, diffusion: StableDiffusion, paths: Sequence[Path], *, scale: float | None = None) -> "PersonalWords":
        """People's files.

        Raises:
            ValueError: one is missing, damaged, of another kind or for another base; a scale, which words do not have.
        """
        if scale is not None:
            raise ValueError(f"scale is {scale}, but {paths[0]} holds a word, which has no strength: expected null")
        size, words = diffusion.text_encoder.get_input_embeddings().embedding_dim, []
        for path in paths:
            check_person(path, kind=cls.kind, base=diffusion, shapes={"word": (1, size)})
            word = load_file(path)["word"]
            if bad := word.numel() - int(word.isfinite().sum()):
                raise ValueError(f"{path}: word has {bad} values of {size} that are not finite, expected 0")
            words.append(word)
        return cls(diffusion, torch.cat(words).float(), dtype=words[0].dtype)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, rows: list[int]) -> "PersonalWords":
        return PersonalWords(self.diffusion, self.words[rows], dtype=self.dtype)

    @property
    def num_bytes(self) -> int:
        return self.words.shape[1] * self.dtype.itemsize

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        for path, word, of in zip(paths, self.words.to(self.dtype), about, strict=True):
            write_person(path, {"word": word[None]}, kind=self.kind, base=self.diffusion, about=of)

    def bound(self) -> AbstractContextManager[None]:
        return self.diffusion.word.bound(self.words)

    def pictures(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions
    ) -> Float[Tensor, "m 3 h w"]:
        unbound = partial(self.diffusion.word.bound, None)
        with self.bound():
            return draw(self.diffusion, prompts, num_people=len(self), seeds=seeds, sampling=sampling, unbound=unbound)
