"""Captions: a small closed language that says what a view shows, and its parser.

caption := ["a photo of a " | "a black and white photo of a " | "a "] subject {" " clause} [", " style]
subject := ["[V] "] ["young " | "old "] "face" [" with " trait {" and " trait}]
clause  := expression | accessory | context        trait := hair | beard
"""

from typing import NamedTuple

import numpy as np

from hdb.faceworld.identity import BEARDS, HAIR_COLORS, HAIR_STYLES, Identity
from hdb.faceworld.view import ACCESSORIES, CONTEXTS, EXPRESSIONS, STYLES, View
from hdb.prompts import IDENTIFIER

_YOUNG, _OLD = 0.2, 0.6


class PromptLabels(NamedTuple):
    """What a prompt asks for, as names of `View`."""

    style: str = "photo"
    context: str = "studio"
    accessory: str = "none"
    expression: str = "neutral"


def _phrases() -> dict[tuple[str, ...], tuple[str, str] | None]:
    """Each phrase of the language as words -> (label, value), or None where a phrase sets no label."""
    table: dict[tuple[str, ...], tuple[str, str] | None] = {}
    for label, phrases in (("style", STYLES), ("context", CONTEXTS), ("accessory", ACCESSORIES)):
        for value, phrase in phrases.items():
            if phrase:
                table[tuple(phrase.split())] = (label, value)
    for value in EXPRESSIONS:
        table[tuple(value.split())] = ("expression", value)
    traits = [f"{style} hair" for style in HAIR_STYLES[1:]] + [*BEARDS[1:], *HAIR_COLORS, "hair", "bald head"]
    for phrase in (*traits, "young", "old", "a", "of", "with", "and", "face", IDENTIFIER.lower()):
        table.setdefault(tuple(phrase.split()), None)
    return table


_PHRASES = _phrases()
_LONGEST = max(map(len, _PHRASES))
_WORDS = {word for phrase in _PHRASES for word in phrase}
VOCABULARY = (*sorted(_WORDS - {IDENTIFIER.lower()}), IDENTIFIER)


def _traits(identity: Identity, *, age: bool, hair_color: bool, hair_style: bool, beard: bool) -> tuple[str, str]:
    """Age word and " with ..." phrase; the booleans say which traits are to be said."""
    age_word = ""
    if age and identity.age < _YOUNG:
        age_word = "young "
    elif age and identity.age > _OLD:
        age_word = "old "
    phrases = []
    if identity.hair_style == "bald":
        if hair_style:
            phrases.append("a bald head")
    elif hair_color or hair_style:
        words = (identity.hair_color_name if hair_color else "", identity.hair_style if hair_style else "", "hair")
        phrases.append(" ".join(filter(None, words)))
    if beard and identity.beard != "none":
        phrases.append(identity.beard if identity.beard == "stubble" else f"a {identity.beard}")
    return age_word, f" with {' and '.join(phrases)}" if phrases else ""


def caption(
    view: View,
    *,
    identifier: str | None = None,
    identity: Identity | None = None,
    rng: np.random.Generator | None = None,
) -> str:
    """Says everything that `view` shows: style, expression, accessory and context.

    What a caption does not say is not in the picture. A base that is trained on captions with gaps draws contexts and
    accessories that the prompt does not name.

    Args:
        identifier: stands before "face".
        identity: whose age, hair and beard are said.
        rng: makes a training caption. It says each trait with a probability of 30 %. A third carries "[V]", for any
            person, so that the base learns no person by this word.

    >>> from hdb.faceworld.view import sample_nuisances
    >>> view = sample_nuisances(np.random.default_rng(0)).replace(style="oil", context="snow", accessory="hat")
    >>> caption(view, identifier="[V]")
    'a [V] face wearing a hat in the snow, oil painting'
    """
    said = [True] * 4
    if rng is not None:
        if rng.random() < 1 / 3 and identifier is None:
            identifier = IDENTIFIER
        said = (rng.random(4) < 0.3).tolist()
    age, traits = "", ""
    if identity is not None:
        age, traits = _traits(identity, age=said[0], hair_color=said[1], hair_style=said[2], beard=said[3])
    name = f"{identifier} " if identifier else ""
    expression = view.expression if view.expression != "neutral" else ""
    parts = [f"{name}{age}face{traits}", expression, ACCESSORIES[view.accessory], CONTEXTS[view.context]]
    subject = " ".join(filter(None, parts))
    if view.style in ("photo", "gray"):
        return f"a {STYLES[view.style]} of a {subject}"
    return f"a {subject}, {STYLES[view.style]}"


def parse(prompt: str) -> PromptLabels:
    """What a prompt asks for; the inverse of `caption`. Labels that are not said are photo, studio, none, neutral.

    Raises:
        ValueError: an unknown word; two styles, contexts, accessories or expressions; or no "face".

    >>> parse("a [V] face smiling on a beach, pencil sketch")
    PromptLabels(style='pencil', context='beach', accessory='none', expression='smiling')
    """
    words = prompt.lower().replace(",", " ").split()
    labels: dict[str, str] = {}
    position = 0
    while position < len(words):
        for length in range(min(_LONGEST, len(words) - position), 0, -1):
            phrase = tuple(words[position : position + length])
            if phrase in _PHRASES:
                break
        else:
            unknown = [word for word in words if word not in _WORDS]
            if unknown:
                raise ValueError(
                    f"unknown word {unknown[0]!r} in prompt {prompt!r}; the words are {' '.join(VOCABULARY)}"
                )
            rest = " ".join(words[position:])
            raise ValueError(f"prompt {prompt!r} has known words in an unknown order: no phrase begins {rest!r}")
        position += length
        meaning = _PHRASES[phrase]
        if meaning is not None:
            label, value = meaning
            if labels.setdefault(label, value) != value:
                raise ValueError(f"prompt {prompt!r} asks for two values of {label}: {labels[label]} and {value}")
    if "face" not in words:
        raise ValueError(f"prompt {prompt!r} names no subject; expected the word 'face'")
    return PromptLabels(**labels)
