"""LearnedWord: reads the identifier as one learned embedding per person, as in Textual Inversion."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.diffusion.transfer import to_device
from hdb.prompts import IDENTIFIER

_PLACEHOLDER_ID = -1  # not a token id


class LearnedWord:
    """The token embedding of the identifier for each of n people, while it is bound.

        "a [V] face" -> a, word (n, d), face -> text encoder

    "[V]" is no entry of the tokenizer, which splits it into several tokens. While a word is bound, the prompt is cut at
    the identifier, and one position with the learned embedding stands between the tokens of the parts. The token ids
    are those of a tokenizer to which "[V]" was added, but tokenizer and embedding table stay as they are. What is
    learned is one row per person, and prompts without the identifier are encoded as before.

    Source: Gal et al., An Image is Worth One Word, section 3, https://arxiv.org/abs/2208.01618
    """

    def __init__(self) -> None:
        self.vectors: Float[Tensor, "n d"] | None = None

    @contextmanager
    def bound(self, vectors: Float[Tensor, "n d"] | None) -> Iterator[None]:
        """Binds the embeddings of n people within a `with` block and the previous ones after it. Gradients flow."""
        previous = self.vectors
        self.vectors = vectors
        try:
            yield
        finally:
            self.vectors = previous

    def encode(
        self, prompts: Sequence[str], *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
    ) -> Float[Tensor, "m l d"]:
        """Encodes prompts to prompt_embeds. Prompt i is read with the word of person i mod n.

        Raises:
            ValueError: The number of prompts is not a multiple of the number of people.
        """
        if len(prompts) % len(self.vectors):
            raise ValueError(f"{len(prompts)} prompts for the words of {len(self.vectors)} people: expected a multiple")
        input_ids, is_placeholder = tokenize_with_placeholder(
            prompts, tokenizer, length=text_encoder.config.max_position_embeddings
        )
        input_ids = to_device(input_ids, text_encoder.device)
        is_placeholder = to_device(is_placeholder, text_encoder.device)
        vectors = self.vectors.to(text_encoder.device).repeat(len(prompts) // len(self.vectors), 1)

        def insert_word(
            module: torch.nn.Module, args: tuple, embeddings: Float[Tensor, "m l d"]
        ) -> Float[Tensor, "m l d"]:
            return torch.where(is_placeholder[..., None], vectors[:, None].to(embeddings), embeddings)

        # A hook, because CLIPTextModel takes no `inputs_embeds`.
        hook = text_encoder.get_input_embeddings().register_forward_hook(insert_word)
        try:
            return text_encoder(input_ids).last_hidden_state
        finally:
            hook.remove()


def tokenize_with_placeholder(
    prompts: Sequence[str], tokenizer: CLIPTokenizer, *, length: int
) -> tuple[Int[Tensor, "m l"], Bool[Tensor, "m l"]]:
    """Tokenizes prompts with one position for each identifier, padded and truncated to `length`.

    Returns:
        Token ids, and a mask of the positions of identifiers, whose ids mean nothing.
    """
    rows: list[list[int]] = []
    for prompt in prompts:
        first_ids, *other_ids = tokenizer(prompt.split(IDENTIFIER), add_special_tokens=False, verbose=False).input_ids
        row = [tokenizer.bos_token_id, *first_ids]
        for part_ids in other_ids:
            row += [_PLACEHOLDER_ID, *part_ids]
        row = [*row[: length - 1], tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
    input_ids = torch.tensor(rows)
    is_placeholder = input_ids == _PLACEHOLDER_ID
    return input_ids.masked_fill(is_placeholder, tokenizer.bos_token_id), is_placeholder


def word_embedding(word: str, *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> Float[Tensor, " d"]:
    """The token embedding of a word, on the CPU. For a word of several tokens it is their mean.

    Raises:
        ValueError: The word has no token.
    """
    token_ids = tokenizer(word, add_special_tokens=False).input_ids
    if not token_ids:
        raise ValueError(f"the word {word!r} has no token, expected one that the base knows, like 'face'")
    return text_encoder.get_input_embeddings().weight[token_ids].detach().float().mean(0).cpu()
