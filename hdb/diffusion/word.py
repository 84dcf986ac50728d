"""LearnedWord: reads the identifier as one learned embedding per person, as in Textual Inversion."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer
from transformers.utils import ModelOutput

from hdb.prompts import IDENTIFIER

_PLACEHOLDER_ID = -1  # not a token id
IS_WORD = ".is_word"  # ends the name of the mask of learned words beside the input ids


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


def encode_with_words(
    tokens: Mapping[str, Tensor],
    words: Float[Tensor, "n d"],
    text_encoders: Mapping[str, nn.Module],
    *,
    output_hidden_states: bool = False,
) -> list[ModelOutput]:
    """Runs text encoders on prompts. Prompt i is read with the word of person i mod n.

    Args:
        tokens: Of m prompts, with the places of the word, as `StableDiffusion.tokenize_prompts` returns them.
        words: The token embeddings for all text encoders, side by side.
        text_encoders: By the name of their input ids in `tokens`.
        output_hidden_states: Also of the layers before the last one.

    Raises:
        ValueError: The number of prompts is not a multiple of the number of people.
    """
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in text_encoders.values()]
    outputs = []
    for (name, text_encoder), vectors in zip(text_encoders.items(), words.split(widths, dim=1), strict=True):
        num_prompts = len(tokens[name])
        if num_prompts % len(words):
            raise ValueError(f"{num_prompts} prompts for the words of {len(words)} people: expected a multiple")
        tiled_vectors = vectors.to(text_encoder.device).repeat(num_prompts // len(words), 1)
        with _words_inserted(text_encoder, tiled_vectors, tokens[f"{name}{IS_WORD}"]):
            outputs.append(text_encoder(tokens[name], output_hidden_states=output_hidden_states))
    return outputs


@contextmanager
def _words_inserted(
    text_encoder: nn.Module, vectors: Float[Tensor, "m d"], is_placeholder: Bool[Tensor, "m l"]
) -> Iterator[None]:
    """Reads a vector in place of the token embeddings of the placeholders within a `with` block."""

    def insert(module: nn.Module, args: tuple, embeddings: Float[Tensor, "m l d"]) -> Float[Tensor, "m l d"]:
        return torch.where(is_placeholder[..., None], vectors[:, None].to(embeddings), embeddings)

    # A hook, because CLIPTextModel takes no `inputs_embeds`.
    hook = text_encoder.get_input_embeddings().register_forward_hook(insert)
    try:
        yield
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


def word_embedding(word: str, text_encoders: Sequence[tuple[CLIPTokenizer, nn.Module]]) -> Float[Tensor, " d"]:
    """The token embeddings of a word for all text encoders, side by side, on the CPU. Of several tokens their mean.

    Raises:
        ValueError: The word has no token.
    """
    embeddings = []
    for tokenizer, text_encoder in text_encoders:
        token_ids = tokenizer(word, add_special_tokens=False).input_ids
        if not token_ids:
            raise ValueError(f"the word {word!r} has no token, expected one that the base knows, like 'face'")
        embeddings.append(text_encoder.get_input_embeddings().weight[token_ids].detach().float().mean(0).cpu())
    return torch.cat(embeddings)
