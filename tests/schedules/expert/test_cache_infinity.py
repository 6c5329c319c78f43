"""MoE-Infinity's priority by hand, on the activation matrix of its figure 6."""

import numpy as np
import pytest

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_infinity import MoEInfinity

FIGURE_6 = np.array([[1, 2], [0, 3], [0, 3]])  # layers x experts


def scores(policy: MoEInfinity) -> list[list[float]]:
    return [[policy.score((layer, expert)) for expert in range(2)] for layer in range(3)]


def test_predicted_ratio_times_proximity_to_the_first_layer() -> None:
    policy = MoEInfinity(3, 2, epsilon=0)
    policy.predict(FIGURE_6)
    expected = [[1 / 3, 2 / 3], [0, 1 * 2 / 3], [0, 1 * 1 / 3]]
    assert np.allclose(scores(policy), expected, rtol=1e-15)


def test_figure_6() -> None:
    """E[2,2], counted from 1 there, is kept; unlike with LRU, which evicts it."""
    policy = MoEInfinity(3, 2)
    cache = ExpertCache(2, policy)
    policy.predict(FIGURE_6)
    cache.insert((1, 1))
    cache.insert((0, 0))
    assert cache.request([(1, 0)]).evictions == ((0, 0),)


def test_where_nothing_is_predicted_early_layers_stay() -> None:
    policy = MoEInfinity(3, 2)
    cache = ExpertCache(3, policy)
    policy.predict(np.zeros((3, 2)))
    for key in [(1, 0), (2, 0), (0, 0)]:
        cache.insert(key)
    assert [policy.evict(()) for _ in range(3)] == [(2, 0), (1, 0), (0, 0)]


def test_without_prediction_the_request_so_far_is_the_pattern() -> None:
    policy = MoEInfinity(3, 2, epsilon=0)
    cache = ExpertCache(6, policy)
    for layer, expert in [(0, 1), (1, 1), (2, 1), (0, 0), (1, 1), (2, 1), (0, 1), (1, 1), (2, 1)]:
        cache.access((layer, expert))
    assert (policy.used == FIGURE_6).all()
    seen = scores(policy)
    policy.predict(FIGURE_6)
    assert scores(policy) == seen
    policy.predict(np.ones((3, 2)))
    assert scores(policy) != seen
    policy.predict(None)
    assert scores(policy) == seen
    policy.next_request()
    assert not policy.used.any()
    assert not np.any(scores(policy))


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), -np.ones((3, 2)), np.full((3, 2), np.nan)])
def test_predictions_have_the_shape_of_the_model(matrix) -> None:
    with pytest.raises(BadInput, match=r"shape \(3, 2\) and no negative entry"):
        MoEInfinity(3, 2).predict(matrix)


def test_experts_of_the_model() -> None:
    with pytest.raises(BadInput, match="knows experts 0 to 1, not 2"):
        ExpertCache(1, MoEInfinity(3, 2)).access((0, 2))
