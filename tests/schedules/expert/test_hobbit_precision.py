"""Drawn gate weights, and predictions that are right to a stated share."""

import numpy as np
import pytest

from schedules.expert.hobbit_precision import HIGH_UP_TO, LOW_UP_TO, draw_scores, mistaken


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
