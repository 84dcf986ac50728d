"""LearnedWord: the identifier read as one word of somebody's own, and not as the tokens it is spelled with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.diffusion.transfer import to_device
from hdb.prompts import IDENTIFIER


class LearnedWord:
    """The embedding of the identifier for each of n people, while it is bound.

        "a [V] face" -> a, word (n, d), face -> text encoder

    The tokenizer and its table stay as they are. "[V]" has no entry there and is spelled in several tokens ("[", "v",
    "]"), so while a word is bound the prompt is cut at the identifier, and one position with the learned vector stands
    between the tokens of the pieces: the ids that a tokenizer with "[V]" added to it gives, without adding it. All that
    is learned is one row per person, and prompts without the identifier are read as ever.

    Source: Gal et al., An Image is Worth One Word, section 3, https://arxiv.org/abs/2208.01618
    """

    def __init__(self) -> None:
        self.vectors: Float[Tensor, "n d"] | None = None

    @contextmanager
    def bound(self, vectors: Float[Tensor, "n d"] | None) -> Iterator[None]:
        """Binds the words of n people within a `with` block, then what was bound before. Gradients flow to them."""
        previous, self.vectors = self.vectors, vectors
        try:
            yield
        finally:
            self.vectors = previous

    def encode(
        self, prompts: Sequence[str], *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
    ) -> Float[Tensor, "m l d"]:
        """Prompts -> prompt_embeds; prompt i is read with the word of person i mod n.

        Raises:
            ValueError: the number of prompts is no multiple of the number of people.
        """
        if len(prompts) % len(self.vectors):
            raise ValueError(f"{len(prompts)} prompts for the words of {len(self.vectors)} people: expected a multiple")
        ids, places = spelled(prompts, tokenizer, length=text_encoder.config.max_position_embeddings)
        ids, places = to_device(ids, text_encoder.device), to_device(places, text_encoder.device)
        vectors = self.vectors.to(text_encoder.device).repeat(len(prompts) // len(self.vectors), 1)

        def insert(module: torch.nn.Module, args: tuple, rows: Float[Tensor, "m l d"]) -> Float[Tensor, "m l d"]:
            return torch.where(places[..., None], vectors[:, None].to(rows), rows)

        # Not `inputs_embeds`: CLIPTextModel takes token ids alone.
        hook = text_encoder.get_input_embeddings().register_forward_hook(insert)
        try:
            return text_encoder(ids).last_hidden_state
        finally:
            hook.remove()


def spelled(
    prompts: Sequence[str], tokenizer: CLIPTokenizer, *, length: int
) -> tuple[Int[Tensor, "m l"], Bool[Tensor, "m l"]]:
    """Token ids, padded and truncated to `length`, with one place for each identifier; and where these places are."""
    rows: list[list[int]] = []
    for prompt in prompts:
        pieces = tokenizer(prompt.split(IDENTIFIER), add_special_tokens=False, verbose=False).input_ids
        row = [tokenizer.bos_token_id, *pieces[0]]
        for piece in pieces[1:]:
            row += [_PLACE, *piece]
        row = [*row[: length - 1], tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
    ids = torch.tensor(rows)
    places = ids == _PLACE
    return ids.masked_fill(places, tokenizer.bos_token_id), places


def word_embedding(word: str, *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> Float[Tensor, " d"]:
    """What the text encoder takes for a known word, on the CPU; of one that is spelled in several tokens their mean.

    Raises:
        ValueError: there is no token in it.
    """
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(f"the word {word!r} has no token, expected one that the base knows, like 'face'")
    return text_encoder.get_input_embeddings().weight[ids].detach().float().mean(0).cpu()


_PLACE = -1  # no token has this id
