"""TextualInversionFitting: one learned token embedding per person, the base frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.graphs import Tensors
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.word import word_embedding
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT
from hdb.training.fitting import RowFitting
from hdb.training.options import FinetuningOptions, TextualInversionOptions, check_mask


@dataclass(frozen=True)
class WordCondition:
    """Encodes prompts with learned words in place of the identifier."""

    diffusion: StableDiffusion

    def __call__(self, words: Float[Tensor, "n d"], inputs: Tensors) -> TextCondition:
        with self.diffusion.word.bound(words):
            return self.diffusion.encode_tokens(inputs)


class TextualInversionFitting(RowFitting):
    """Textual Inversion of one or many people, each on their one photo.

        embedding (n, d) -> read in place of the identifier in the instance prompt -> diffusion loss

    Everyone ends where they would have ended alone. `LearnedWord` replaces identifiers of several tokens, too.

    Paper: 5,000 steps at a constant rate. Here: a cosine to zero, as in the other stages that fit one row per person.

    Args:
        reference: Latents of the n references.
        prompt: The instance prompt.
        photo_sides: Sides of the references in their photos, as in `RowFitting`.

    Raises:
        ValueError: A prompt without the identifier, an initial word without a token, or an unknown mask.

    Source: Gal et al., An Image is Worth One Word, section 4, https://arxiv.org/abs/2208.01618
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        reference: Float[Tensor, "n c h w"],
        prompt: str = INSTANCE_PROMPT,
        options: TextualInversionOptions | None = None,
        photo_sides: Int[Tensor, "n v"] | None = None,
        seed: int = 0,
    ) -> None:
        options = options or TextualInversionOptions()
        base = personalized.diffusion
        check_has_identifier(prompt)
        check_mask(options.mask)
        start = word_embedding(options.initial_word, base.text_encoders)
        super().__init__(
            personalized,
            latents=reference[:, None],
            prompts=prompt,
            start=start[None],
            options=FinetuningOptions(
                num_steps=options.num_steps,
                lr=options.lr,
                batch_size=options.batch_size,
                timesteps=options.timesteps,
                mask=options.mask,
            ),
            photo_sides=photo_sides,
            seed=seed,
        )

    @property
    def fitted(self) -> Float[Tensor, "n d"]:
        """A copy of the embeddings, on the CPU."""
        return self.rows.detach().cpu().clone()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.personalized.bind(None)

    @cached_property
    def condition(self) -> WordCondition:
        return WordCondition(self.diffusion)

    def read_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Tokens with the places of the learned word."""
        return self.diffusion.tokenize_prompts(prompts, has_word=True)


def check_has_identifier(prompt: str) -> None:
    """Raises ValueError if the instance prompt lacks the identifier, whose embedding is learned."""
    if IDENTIFIER not in prompt:
        raise ValueError(f"the instance prompt {prompt!r} has no {IDENTIFIER}, the word whose embedding is learned")
