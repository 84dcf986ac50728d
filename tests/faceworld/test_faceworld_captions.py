"""Captions and their parser."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdb.faceworld.captions import VOCABULARY, PromptLabels, caption, parse
from hdb.faceworld.identity import sample_identity
from hdb.faceworld.view import ACCESSORIES, CONTEXTS, EXPRESSIONS, STYLES, View, sample_nuisances, sample_view
from hdb.prompts import CLASS_PROMPT, INSTANCE_PROMPT

views = st.builds(
    lambda style, context, accessory, expression: sample_nuisances(np.random.default_rng(0)).replace(
        style=style, context=context, accessory=accessory, expression=expression
    ),
    *(st.sampled_from(sorted(names)) for names in (STYLES, CONTEXTS, ACCESSORIES, EXPRESSIONS)),
)
people = st.none() | st.integers(0, 200).map(lambda index: sample_identity(0, index))


def labels_of(view: View) -> PromptLabels:
    return PromptLabels(view.style, view.context, view.accessory, view.expression)


@given(view=views, identifier=st.sampled_from([None, "[V]"]), identity=people)
def test_parse_inverts_caption(view, identifier, identity):
    assert parse(caption(view, identifier=identifier, identity=identity)) == labels_of(view)


@given(view=views, identity=people, seed=st.integers(0, 10_000))
def test_training_captions_say_everything_a_view_shows(view, identity, seed):
    assert parse(caption(view, identity=identity, rng=np.random.default_rng(seed))) == labels_of(view)


@given(view=views, identity=people, seed=st.integers(0, 10_000))
def test_captions_use_the_vocabulary_only(view, identity, seed):
    words = caption(view, identity=identity, rng=np.random.default_rng(seed)).replace(",", "").split()
    assert set(words) <= set(VOCABULARY)


def test_a_third_of_training_captions_carry_the_identifier():
    rng = np.random.default_rng(0)
    captions = [caption(sample_view(0, person, 0), rng=rng) for person in range(1500)]
    assert np.mean(["[V]" in text for text in captions]) == pytest.approx(1 / 3, abs=0.04)


def test_training_captions_sometimes_state_traits_and_sometimes_do_not():
    person = sample_identity(0, 2)
    rng = np.random.default_rng(0)
    captions = [caption(sample_view(0, person, 0), identity=person, rng=rng) for _ in range(400)]
    assert 0.2 < np.mean(["with" in text for text in captions]) < 0.8


def test_instance_and_class_prompts_ask_for_a_neutral_photo():
    assert parse(INSTANCE_PROMPT) == parse(CLASS_PROMPT) == PromptLabels("photo", "studio", "none", "neutral")


def test_grammar_reads_as_written():
    view = sample_nuisances(np.random.default_rng(0))
    assert caption(view) == "a photo of a face"
    beach = view.replace(expression="smiling", accessory="glasses", context="beach")
    assert caption(beach, identifier="[V]") == "a photo of a [V] face smiling wearing glasses on a beach"
    assert caption(beach.replace(style="gold")) == "a face smiling wearing glasses on a beach, golden statue"
    assert caption(view.replace(style="gray")) == "a black and white photo of a face"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a [V] face riding a bicycle", "unknown word 'riding'"),
        ("a [V] dog", "unknown word 'dog'"),
        ("a face wearing a tuba", "unknown word 'tuba'"),
        ("a face wearing the snow", "no phrase begins 'wearing the snow'"),
        ("a photo", "names no subject"),
        ("", "names no subject"),
        ("a face on a beach in the snow", "two values of context: beach and snow"),
        ("a photo of a face, oil painting", "two values of style: photo and oil"),
    ],
)
def test_prompts_outside_the_grammar_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        parse(prompt)
