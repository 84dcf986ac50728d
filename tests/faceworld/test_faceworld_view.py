"""Views: which pictures of a person there are, and which training never shows."""

import numpy as np
import pytest

from hdb.faceworld.identity import sample_identity
from hdb.faceworld.splits import SPLITS
from hdb.faceworld.view import (
    ACCESSORIES,
    CONTEXTS,
    EXPRESSIONS,
    HELD_OUT_PAIRS,
    HELD_OUT_STYLES,
    KINDS,
    STYLES,
    TRAINING_STYLES,
    View,
    sample_nuisances,
    sample_view,
)


@pytest.fixture(scope="module")
def training_views() -> list[View]:
    """Every view of the first people of the training split."""
    return [sample_view(0, person, view) for person in SPLITS["train"][:300] for view in range(12)]


@pytest.fixture(scope="module")
def styled_views() -> list[View]:
    """Every styled view of the training split, the only kind that could be of a held-out style or pair."""
    return [
        sample_view(0, person, view) for person in SPLITS["train"] for view in range(12) if KINDS[view % 3] == "styled"
    ]


def test_held_out_styles_and_pairs_never_appear_in_training_views(training_views, styled_views):
    views = training_views + styled_views
    pairs = {(view.style, view.context) for view in views}
    assert not {style for style, _ in pairs} & set(HELD_OUT_STYLES)
    assert not pairs & set(HELD_OUT_PAIRS)
    assert not any(view.held_out for view in views)


def test_every_pair_that_is_not_held_out_appears(training_views, styled_views):
    pairs = {(view.style, view.context) for view in training_views + styled_views}
    expected = {(style, context) for style in ("photo", *TRAINING_STYLES) for context in CONTEXTS} - set(HELD_OUT_PAIRS)
    assert pairs == expected
    assert {view.accessory for view in training_views} == set(ACCESSORIES)
    assert {view.expression for view in training_views} == set(EXPRESSIONS)


def test_kinds_alternate_and_are_a_third_each(training_views):
    assert [view.kind for view in training_views] == list(KINDS) * (len(training_views) // 3)


def test_half_of_the_styled_views_have_a_context_and_a_third_an_accessory(styled_views):
    assert np.mean([view.context != "studio" for view in styled_views]) == pytest.approx(1 / 2, abs=0.02)
    assert np.mean([view.accessory != "none" for view in styled_views]) == pytest.approx(1 / 3, abs=0.02)


def test_nuisances_are_drawn_again_for_every_view(training_views):
    for draw in ("yaw", "light_azimuth", "shirt", "gaze", "context_seed", "accessory_color"):
        first_person = {getattr(view, draw) for view in training_views[:12]}
        assert len(first_person) == 12, draw


def test_no_draw_depends_on_what_another_selects():
    """The pose of a view does not depend on what its kind selects, because all numbers are drawn before."""
    for person in range(20):
        for index in range(6):
            nuisances = sample_nuisances(np.random.default_rng([0, person, index, 29]))
            view = sample_view(0, person, index)
            reset = view.replace(style="photo", context="studio", accessory="none", expression="neutral")
            assert reset == nuisances


def test_person_and_index_of_a_person_name_the_same_view():
    assert sample_view(0, sample_identity(0, 5), 3) == sample_view(0, 5, 3)


@pytest.mark.parametrize("field", ["style", "context", "accessory", "expression"])
def test_unknown_names_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 'cubism', expected one of"):
        sample_nuisances(np.random.default_rng(0)).replace(**{field: "cubism"})


def test_held_out_pairs_are_of_training_styles_and_real_contexts():
    for style, context in HELD_OUT_PAIRS:
        assert style in TRAINING_STYLES and context in CONTEXTS and context != "studio"
    assert set(HELD_OUT_STYLES) < set(STYLES)
