"""What is said of prompts that a base does not read as they were meant."""

import pytest
from transformers import CLIPTokenizer

from hdb.diffusion import sampling
from hdb.diffusion.sampling import prompt_warnings

LONG = "a [V] face, smiling, painting of an astronaut with white hair, wearing a hat, on a beach, in the snow"


@pytest.fixture
def diffusion(tiny_diffusion):
    """The tiny base with the vocabulary of the shipped one."""
    tiny_diffusion.tokenizer = CLIPTokenizer.from_pretrained("hdb/faceworld/weights/base/tokenizer")
    return tiny_diffusion


@pytest.mark.parametrize(
    ("prompt", "warning"),
    [
        ("a photo of a [V] face smiling on a beach", None),
        ("a [v] face, Oil Painting, 1970", None),
        ("a [V] face as an Astronaut", " has words that the base does not know and reads in pieces: as, astronaut"),
        ("a [V] face, \u96ea", " has a word that the base does not know and reads in pieces: \u96ea"),
        ("a photo", " has no [V], the word that stands for the person"),
        (
            "astronaut",
            " has a word that the base does not know and reads in pieces: astronaut; it has no [V], the word that "
            "stands for the person",
        ),
        (
            LONG,
            " has 34 tokens, and the base reads 24 of them: the rest is left out; it has a word that the base does not "
            "know and reads in pieces: astronaut",
        ),
    ],
)
def test_each_prompt_gets_one_sentence_that_names_its_words(diffusion, prompt, warning):
    assert prompt_warnings(diffusion, [prompt]) == ([] if warning is None else [f"{prompt!r}{warning}"])


def test_a_large_vocabulary_names_words_only_where_the_prompt_is_cut(diffusion, monkeypatch):
    monkeypatch.setattr(sampling, "SMALL_VOCABULARY", len(diffusion.tokenizer))
    assert prompt_warnings(diffusion, ["a [V] face as an astronaut"]) == []
    assert prompt_warnings(diffusion, [LONG])[0].endswith("is left out; it has a word of several tokens: astronaut")


def test_the_identifier_of_a_base_is_no_unknown_word(diffusion):
    diffusion.identifier = "sks"
    assert prompt_warnings(diffusion, ["a [V] face", "a sks face"]) == []
