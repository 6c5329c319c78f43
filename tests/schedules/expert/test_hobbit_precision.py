"""Drawn gate weights, and predictions that are right to a stated share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schedules.expert.hobbit_precision import (
    HIGH_UP_TO,
    LOW_UP_TO,
    draw_scores,
    foreseen_rightly,
    group_of,
    mistaken,
    unimportance,
)
from schedules.model_presets import load_model


def rng():
    return np.random.default_rng(7)


def test_shares_of_two_choices():
    """By hand: the second one's score exceeds T in (1 - T) / T of all cases; least is 1/2."""
    first, second = draw_scores(rng(), (200_000, 2)).T
    assert np.all(first == 0)
    assert np.all((second >= 0.5) & (second < 1))
    assert np.mean(second <= HIGH_UP_TO) == pytest.approx(1 / 3, abs=0.005)
    assert np.mean(second > LOW_UP_TO) == pytest.approx(1 / 9, abs=0.005)


def test_scores_grow_from_choice_to_choice():
    """The better choices of the one that comes later weigh more in all."""
    scores = draw_scores(rng(), (1_000, 8))
    assert np.all(np.diff(scores, axis=1) > 0)
    assert np.all(np.diff(scores, n=2, axis=1) <= 1e-12)  # each adds less than the one before
    assert np.all(scores < 1)


def test_one_choice_matters_most():
    assert np.all(draw_scores(rng(), (9, 1)) == 0)


@pytest.mark.parametrize("accuracy", [0.0, 0.9, 1.0])
def test_predictions_are_right_to_the_stated_share(accuracy):
    ids = rng().integers(0, 8, (50_000, 2))
    named = mistaken(rng(), ids, 8, accuracy)
    assert np.mean(named == ids) == pytest.approx(accuracy, abs=0.005)
    assert named.min() >= 0
    assert named.max() < 8


# -- scores of known weights -----------------------------------------------------------------------


def test_unimportance_by_hand():
    """Shares of 0.5, 0.3 and 0.2 of a token's weights, in any order and of any size."""
    weights = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [1.0, 0.6, 0.4]])
    expected = [[0, 0.5, 0.8], [0.8, 0, 0.5], [0, 0.5, 0.8]]
    assert unimportance(weights) == pytest.approx(np.array(expected))


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 6)),
        elements=st.floats(1e-3, 1),
    )
)
def test_a_score_is_the_share_of_better_choices(weights):
    """Counted one by one; so every token has a choice that comes as it is."""
    scores = unimportance(weights)
    for row, found in zip(weights, scores, strict=True):
        for i, score in enumerate(found):
            better = [w for j, w in enumerate(row) if w > row[i] or (w == row[i] and j < i)]
            assert score == pytest.approx(sum(better) / sum(row))
    assert np.all(scores.min(axis=1) == 0)
    assert np.all(scores < 1)


# -- scales, predictions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "group"), [("mixtral-8x7b", 64), ("qwen3-30b-a3b", 64), ("switch-base-8", 64)]
)
def test_groups_divide_the_rows(model, group):
    spec = load_model(model)
    assert {group_of(spec, layer) for layer in spec.decoder_layers} == {group}


def test_predictions_count_in_any_order():
    """3 and 1 for 1 and 3: both; 0 and 2 for 0 and 4: one; 5 and 5 for 5 and 6: one."""
    named, truth = ([[3, 1], [0, 2], [5, 5]], [[1, 3], [0, 4], [5, 6]])
    assert foreseen_rightly(np.array(named), np.array(truth)) == 4
