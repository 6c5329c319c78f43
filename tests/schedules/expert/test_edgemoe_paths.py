"""What EdgeMoE expects of a token from the experts that it took in the two blocks before."""

import numpy as np

from schedules.expert.edgemoe_paths import ActivationPaths


def ids(*rows):
    return np.array(rows)


def test_the_block_before_decides_where_it_is_the_only_one():
    """Two of three tokens that took 0 went on to 2, one to 3."""
    paths = ActivationPaths(2, 4)
    assert paths.likely(1, [ids([0])], 1) == []
    paths.learn(1, ids([2], [2], [3]), [ids([0], [0], [0])])
    assert paths.likely(1, [ids([0])], 1) == [2]
    assert paths.likely(1, [ids([0])], 3) == [2, 3]
    assert paths.likely(1, [ids([1])], 1) == []
    assert paths.likely(0, [], 1) == []


def test_both_blocks_before_decide_together():
    """From 0, three quarters go on to 2; from 1 two blocks before, three quarters to 3.

    2: 3/4 x 1/4, 3: 1/4 x 3/4: equal, and the lower number comes first. One more token decides.
    """
    paths = ActivationPaths(3, 4)
    paths.learn(2, ids([2], [2], [2], [3]), [ids([0], [0], [0], [0])])
    paths.learn(2, ids([2], [3], [3], [3]), [ids([1], [1], [1], [1]), ids([1], [1], [1], [1])])
    assert paths.likely(2, [ids([0]), ids([1])], 1) == [2]
    paths.learn(2, ids([3]), [ids([1]), ids([1])])
    assert paths.likely(2, [ids([0]), ids([1])], 1) == [3]


def test_what_most_tokens_are_likely_to_take_comes_first():
    paths = ActivationPaths(2, 4)
    paths.learn(1, ids([1], [3]), [ids([0], [2])])
    assert paths.likely(1, [ids([0], [2], [2])], 1) == [3, 1]


def test_all_choices_of_a_token_count():
    """0 leads to 2 and 3; 1 leads to 3 alone: of a token with both, 3 is the most likely."""
    paths = ActivationPaths(2, 4)
    paths.learn(1, ids([2], [3], [3]), [ids([0], [0], [1])])
    assert paths.likely(1, [ids([0, 1])], 1) == [3]
