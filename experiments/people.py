"""Sources of people by their configs: photos, or faceworld with its oracle and the labels of its prompts."""

from collections.abc import Sequence

from hdb.evaluation.scores import ExpectedAttributes
from hdb.faces.options import PeopleOptions
from hdb.faces.people import SOURCES, People, PeopleSource
from hdb.faces.sources import check_choice
from hdb.faceworld.captions import parse
from hdb.faceworld.oracle import Oracle
from hdb.faceworld.people import FaceworldPeople
from hdb.faceworld.view import HELD_OUT_STYLES
from hdb.methods.protocol import Method


def open_people(options: PeopleOptions) -> PeopleSource:
    """The people of a source.

    Raises:
        ValueError: an unknown source, no people, or an identity in two splits.
    """
    check_choice(options.source, SOURCES, "faces.source")
    return FaceworldPeople(options) if options.source == "faceworld" else People(options)


def oracle_of(people: PeopleSource) -> Method | None:
    """The method that draws the true answers to prompts about these people; None for photos."""
    return Oracle(people.world) if isinstance(people, FaceworldPeople) else None


def expected_attributes(prompts: Sequence[str], *, source: str, classifier: str | None) -> ExpectedAttributes | None:
    """What the pictures of each prompt should show; None where prompts are no captions of faceworld.

    Args:
        source: of the people.
        classifier: that is to judge the pictures, if any.

    Raises:
        ValueError: prompts are no captions, and a classifier is to judge their pictures.
    """
    if classifier is None and source != "faceworld":
        return None
    try:
        per_prompt = [parse(prompt)._asdict() for prompt in prompts]
    except ValueError as error:
        if classifier is not None:
            raise ValueError(f"{error}; expected such prompts, or judges.classifier=null") from None
        return None
    return ExpectedAttributes(per_prompt, unjudged_styles=HELD_OUT_STYLES)
