"""Which experts follow which: counts and votes, by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schedules.expert.popularity import Popularity
from schedules.model_presets import load_model

FIRST, SECOND = load_model("mixtral-8x7b").decoder_layers[:2]


def test_votes_by_hand():
    """Expert 0 was followed by 2 three times and by 1 once, expert 1 by 0 once."""
    popularity = Popularity()
    before = np.array([[0], [0], [0], [0], [1]])
    popularity.learn(SECOND, before, np.array([[2], [2], [1], [2], [0]]))
    counts = np.zeros(8, np.int64)
    counts[[0, 1]] = [3, 1]
    assert popularity.predict(SECOND, counts, 1) == [2]
    counts[[0, 1]] = [1, 3]
    assert popularity.predict(SECOND, counts, 1) == [0]


def test_each_expert_votes_for_as_many_as_are_predicted():
    """Two each: 0 votes for 2 and 1, 1 for 0 and (all else being equal) 1; 1 has most."""
    popularity = Popularity()
    before = np.array([[0], [0], [0], [1]])
    popularity.learn(SECOND, before, np.array([[2], [2], [1], [0]]))
    counts = np.zeros(8, np.int64)
    counts[[0, 1]] = 1
    assert popularity.predict(SECOND, counts, 2) == [1, 0]


def test_the_first_layer_counts_its_own():
    popularity = Popularity()
    popularity.learn(FIRST, None, np.array([[5, 3], [5, 2], [3, 5]]))
    assert popularity.predict(FIRST, None, 2) == [5, 3]


def test_nothing_is_known_at_first():
    assert Popularity().predict(FIRST, None, 2) == [0, 1]


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_pair_is_counted_once(tokens, seed):
    rng = np.random.default_rng(seed)
    before, after = (rng.permuted(np.tile(np.arange(8), (tokens, 1)), axis=1) for _ in range(2))
    before, after = before[:, :2], after[:, :3]
    popularity = Popularity()
    popularity.learn(SECOND, before, after)
    table = popularity.seen[SECOND]
    assert table.sum() == tokens * 2 * 3
    assert table.sum(axis=1).tolist() == (3 * np.bincount(before.ravel(), minlength=8)).tolist()
    assert table.sum(axis=0).tolist() == (2 * np.bincount(after.ravel(), minlength=8)).tolist()
