"""Scores with layers: the keys they need, and EdgeMoE's by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_scored import EdgeMoE

FREQUENCY = {(0, 0): 1, (1, 0): 4, (2, 0): 2, (3, 0): 4}


def scores(policy: EdgeMoE) -> list[float]:
    """Of the keys above, while layer 1 of 4 runs."""
    cache = ExpertCache(len(FREQUENCY), policy)
    for key in FREQUENCY:
        cache.insert(key)
    cache.access((1, 0))
    return [policy.score(key) for key in FREQUENCY]


def test_edgemoe_divides_frequency_by_the_layers_until_use() -> None:
    """Layer 2 is 1 ahead, 3 is 2, 0 is 3, and layer 1, which runs, returns after 4."""
    policy = EdgeMoE(4, FREQUENCY)
    assert scores(policy) == [1 / 3, 4 / 4, 2 / 1, 4 / 2]
    assert policy.evict(()) == (0, 0)


def test_edgemoe_as_printed_evicts_the_layer_that_runs_next() -> None:
    """Layer 0 was 1 ago, 3 was 2 ago, 2 was 3 ago, layer 1 as before."""
    policy = EdgeMoE(4, FREQUENCY, as_printed=True)
    assert scores(policy) == [1 / 1, 4 / 4, 2 / 3, 4 / 2]
    assert policy.evict(()) == (2, 0)


def test_edgemoe_counts_where_it_has_no_profile() -> None:
    policy = EdgeMoE(2)
    cache = ExpertCache(2, policy)
    for key in [(0, 0), (1, 0), (0, 0)]:
        cache.access(key)
    assert policy.score((0, 0)) == 2 / 2
    assert policy.score((1, 0)) == 1 / 1
    assert policy.score((1, 1)) == 0


def test_equal_scores_leave_in_the_order_of_their_last_use() -> None:
    cache = ExpertCache(2, EdgeMoE(3, {}))
    for key in [(0, 0), (0, 1), (0, 0)]:
        cache.access(key)
    assert cache.request([(1, 0)]).evictions == ((0, 1),)


def test_layers_ahead_go_around() -> None:
    policy = EdgeMoE(3)
    policy.begin([(1, 0)])
    assert [policy.layers_ahead((layer, 0)) for layer in range(3)] == [2, 0, 1]


@pytest.mark.parametrize("key", ["expert", (1,), (0, 1, 2), ("a", 0), ()])
def test_keys_are_pairs(key) -> None:
    cache = ExpertCache(2, EdgeMoE(3))
    for act in (cache.access, cache.insert):
        with pytest.raises(BadInput, match=r"'edgemoe' needs keys \(layer, expert\)"):
            act(key)


def test_layers_of_the_model() -> None:
    with pytest.raises(BadInput, match="knows layers 0 to 2, not 3"):
        ExpertCache(2, EdgeMoE(3)).access((3, 0))
    with pytest.raises(BadInput, match="0 layers is impossible"):
        EdgeMoE(0)
