"""TextualInversionFitting: one learned word per person, the base frozen; many people in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.denoise import denoise
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.word import word_embedding
from hdb.limits import number_field
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT
from hdb.training.finetuning_options import FinetuningOptions
from hdb.training.fitting import RowFitting
from hdb.training.stage import timesteps_field


@dataclass
class TextualInversionOptions:
    """How the embedding of the identifier is learned. Paper: 5,000 iterations. Rate and batch are diffusers' example's.

    `initial_word` is the known word whose embedding everyone begins with; `batch_size` counts draws of noise and
    timestep per person and step.
    """

    num_steps: int = number_field(5000, ge=1)
    lr: float = number_field(5e-4, gt=0)
    batch_size: int = number_field(1, ge=1)
    timesteps: str = timesteps_field()
    initial_word: str = "face"


class TextualInversionFitting(RowFitting):
    """Textual Inversion of one or many people, each on their one photo.

        word (n, d) -> read in place of "[V]" in the instance prompt -> diffusion loss

    A row does not depend on who else is in the run. See `LearnedWord` for what becomes of an identifier that is
    spelled in several tokens.

    Paper: 5,000 steps at a constant rate. Here: a cosine to zero, as all fits of rows have it.

    Args:
        reference: latents of the n references.
        prompt: the instance prompt.

    Raises:
        ValueError: a prompt without the identifier; an initial word without a token.

    Source: Gal et al., An Image is Worth One Word, section 4, https://arxiv.org/abs/2208.01618
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        reference: Float[Tensor, "n c h w"],
        prompt: str = INSTANCE_PROMPT,
        options: TextualInversionOptions | None = None,
        seed: int = 0,
    ) -> None:
        options, base = options or TextualInversionOptions(), personalized.diffusion
        check_prompt(prompt)
        word = word_embedding(options.initial_word, tokenizer=base.tokenizer, text_encoder=base.text_encoder)
        super().__init__(
            personalized,
            latents=reference[:, None],
            prompts=prompt,
            start=word[None],
            options=FinetuningOptions(
                num_steps=options.num_steps,
                lr=options.lr,
                batch_size=options.batch_size,
                timesteps=options.timesteps,
            ),
            seed=seed,
        )

    @property
    def fitted(self) -> Float[Tensor, "n d"]:
        """A copy of the words, on the CPU."""
        return self.rows.detach().cpu().clone()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.personalized.bind(None)

    def losses(
        self, latents: Float[Tensor, "m c h w"], prompts: Sequence[str], **draws: Tensor | None
    ) -> Float[Tensor, " m"]:
        with self.diffusion.word.bound(self.rows):
            prompt_embeds = self.diffusion.encode_prompts(list(prompts))
        return denoise(self.diffusion, latents, prompt_embeds, **draws).losses


def check_prompt(prompt: str) -> None:
    """Raises ValueError if an instance prompt has no word to be learned."""
    if IDENTIFIER not in prompt:
        raise ValueError(f"the instance prompt {prompt!r} has no {IDENTIFIER}, the word whose embedding is learned")
