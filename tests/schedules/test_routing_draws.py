"""Random numbers by place, Zipf's law, draws without repetition."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.routing_draws import counters, draw_distinct, popularity, stream_key, uniforms


def by_order(weights, top_k):
    """Probability of each ordered draw without replacement, by enumeration."""
    found = {}
    for order in permutations(range(len(weights)), top_k):
        left, p = 1.0, 1.0
        for rank in order:
            p *= weights[rank] / left
            left -= weights[rank]
        found[order] = p
    return found


def test_splitmix64_by_its_published_numbers():
    """The first outputs of the generator with seed 1234567."""
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected = [(x >> 11) * 2.0**-53 for x in first]
    assert uniforms(1234567, np.arange(1, 4, dtype=np.uint64)).tolist() == expected


def test_uniform_numbers_are_uniform():
    """Mean 1/2, variance 1/12, no correlation of neighbours; 10^5 of them, four standard errors."""
    u = uniforms(stream_key(5), counters(10, 10_000)).ravel()
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 1e5)
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / 1e5)
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4 / np.sqrt(1e5)
    assert np.all((u >= 0) & (u < 1))


def test_places_are_all_different():
    assert len(np.unique(counters(7, 11))) == 77


def test_popularity_by_hand():
    assert popularity(3, 1.0).tolist() == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    assert popularity(3, 0.0).tolist() == pytest.approx([1 / 3] * 3)
    assert popularity(4, 2.0, active=2).tolist() == pytest.approx([0.8, 0.2, 0, 0])


@pytest.mark.parametrize(("n", "exponent", "top_k"), [(3, 1.0, 2), (4, 0.0, 3), (4, 4.0, 3)])
def test_draws_by_enumeration(n, exponent, top_k):
    """20 000 ordered draws; each order as often as it should, within four standard errors."""
    weights = popularity(n, exponent)
    drawn = draw_distinct(weights, top_k, stream_key(1), counters(1, 20_000).ravel())
    for order, p in by_order(weights.tolist(), top_k).items():
        found = np.mean((drawn == order).all(axis=1))
        assert abs(found - p) <= 4 * np.sqrt(p * (1 - p) / 20_000) + 1e-12


shapes = st.integers(1, 40).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, n), st.floats(0, 10))
)


@given(shapes, st.integers(0, 100), st.integers(0, 2**30))
def test_ranks_of_a_token_are_distinct_and_in_range(shape, tokens, seed):
    n, top_k, exponent = shape
    drawn = draw_distinct(popularity(n, exponent), top_k, seed, counters(1, tokens).ravel())
    assert drawn.shape == (tokens, top_k)
    assert np.all((drawn >= 0) & (drawn < n))
    assert all(len(set(row)) == top_k for row in drawn.tolist())


@given(st.integers(2, 20), st.integers(1, 20), st.integers(0, 5))
def test_only_active_experts_are_drawn(n, active, seed):
    active = min(n, active)
    drawn = draw_distinct(popularity(n, 1.0, active), active, seed, counters(1, 50).ravel())
    assert np.array_equal(np.sort(drawn, axis=1), np.tile(np.arange(active), (50, 1)))


@given(st.permutations(range(12)), st.integers(1, 4))
def test_a_token_s_draw_is_a_function_of_its_place(order, top_k):
    """Asked for alone, or in any order, it is what it is among all."""
    places, weights = counters(3, 4).ravel(), popularity(6, 1.5)
    every = draw_distinct(weights, top_k, 9, places)
    assert np.array_equal(draw_distinct(weights, top_k, 9, places[list(order)]), every[list(order)])
    alone = [draw_distinct(weights, top_k, 9, places[i : i + 1])[0] for i in range(12)]
    assert np.array_equal(alone, every)


def test_many_experts_have_wider_numbers():
    drawn = draw_distinct(popularity(40_000, 0.0), 1, 3, counters(1, 1000).ravel())
    assert drawn.min() >= 0
    assert drawn.max() > 2**15
