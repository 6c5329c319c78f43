"""Policies by name."""

import pytest

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_named import POLICIES, cache_policy

TRACE = [[(0, 1), (0, 0)], [(1, 2)], [(0, 2)], [(1, 2)]]


@pytest.mark.parametrize("name", POLICIES)
def test_each_name_gives_a_policy_that_works(name: str) -> None:
    policy = cache_policy(name, n_layers=2, n_experts=3, future=TRACE)
    assert policy.name == name
    cache = ExpertCache(2, policy)
    for keys in TRACE:
        cache.request(keys)
    assert cache.counts.requests == 5


def test_unknown_names_and_missing_futures() -> None:
    with pytest.raises(BadInput, match="unknown cache policy 'lfo', did you mean"):
        cache_policy("lfo", n_layers=2, n_experts=3)
    with pytest.raises(BadInput, match="'belady' needs the requests to come"):
        cache_policy("belady", n_layers=2, n_experts=3)
