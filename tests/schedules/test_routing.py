"""Routing: expectations by hand, by enumeration and by drawing; expert ids."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.routing import Routing
from schedules.task import Task

ROUTING = Routing()


def enumerated(tokens, n_experts, top_k, count):
    """Average of `count(tokens per expert)` over all choices of all tokens, exactly."""
    total = number = 0
    for choice in product(combinations(range(n_experts), top_k), repeat=tokens):
        load = [sum(e in chosen for chosen in choice) for e in range(n_experts)]
        total, number = total + count(load), number + 1
    return Fraction(total, number)


SMALL = [(1, 3, 1), (2, 3, 1), (2, 4, 2), (3, 4, 2), (4, 3, 2), (3, 3, 3)]


@pytest.mark.parametrize(("tokens", "n_experts", "top_k"), SMALL)
def test_expected_distinct_by_enumeration(tokens, n_experts, top_k):
    exact = enumerated(tokens, n_experts, top_k, lambda load: sum(n > 0 for n in load))
    assert ROUTING.expected_distinct(tokens, n_experts, top_k) == pytest.approx(float(exact))


@pytest.mark.parametrize("tile", [1, 2, 3, 16])
@pytest.mark.parametrize(("tokens", "n_experts", "top_k"), SMALL)
def test_expected_rows_by_enumeration(tokens, n_experts, top_k, tile):
    exact = enumerated(tokens, n_experts, top_k, lambda load: sum(-(-n // tile) for n in load))
    rows = ROUTING.expected_rows(tokens, n_experts, top_k, tile)
    assert rows == pytest.approx(float(exact) * tile)


def test_by_hand():
    """Two tokens, four experts, top-1: 4 (1 - (3/4)^2) = 1.75 experts, a tile of 8 rows each."""
    assert ROUTING.expected_distinct(2, 4, 1) == pytest.approx(1.75)
    assert ROUTING.expected_rows(2, 4, 1, tile=8) == pytest.approx(1.75 * 8)


def test_a_dense_layer_is_one_expert():
    assert ROUTING.expected_distinct(100, 1, 1) == 1.0
    assert ROUTING.expected_rows(100, 1, 1, tile=64) == 100.0


def test_nobody_comes():
    assert ROUTING.expected_distinct(0, 8, 2) == 0.0
    assert ROUTING.expected_rows(0, 8, 2, tile=64) == 0.0


@pytest.mark.parametrize(
    ("tokens", "n_experts", "top_k", "tile"),
    [(1, 8, 2, 64), (12, 8, 2, 64), (5, 60, 4, 16), (100, 128, 8, 4), (300, 8, 2, 64)],
)
def test_expectations_agree_with_what_is_drawn(tokens, n_experts, top_k, tile):
    """Means of 400 draws, within four standard errors (the draws are fixed by the seed)."""
    draws = [
        np.bincount(
            Routing(seed=7).expert_ids(tokens, n_experts, top_k, layer, step=0).ravel(),
            minlength=n_experts,
        )
        for layer in range(400)
    ]
    distinct = np.array([np.count_nonzero(load) for load in draws])
    rows = np.array([np.sum(-(-load // tile)) * tile for load in draws])
    expected = (
        ROUTING.expected_distinct(tokens, n_experts, top_k),
        ROUTING.expected_rows(tokens, n_experts, top_k, tile),
    )
    for drawn, mean in zip((distinct, rows), expected, strict=True):
        error = drawn.std(ddof=1) / np.sqrt(len(drawn))
        assert abs(drawn.mean() - mean) <= 4 * error + 1e-9


def test_every_expert_is_drawn_equally_often():
    """6400 tokens, top-2 of 8: each expert 1600 times, standard deviation sqrt(6400 x 3/16)."""
    load = np.bincount(Routing(seed=1).expert_ids(6400, 8, 2, layer=0, step=0).ravel())
    assert np.all(np.abs(load - 1600) <= 4 * np.sqrt(6400 * 0.25 * 0.75))


shapes = st.integers(1, 16).flatmap(
    lambda n: st.tuples(st.integers(0, 200), st.just(n), st.integers(1, n))
)


@given(shapes)
def test_bounds_of_the_expectations(shape):
    tokens, n_experts, top_k = shape
    distinct = ROUTING.expected_distinct(tokens, n_experts, top_k)
    assert distinct <= min(n_experts, max(tokens * top_k, 1)) * (1 + 1e-12)
    assert distinct >= min(tokens, 1) * min(top_k, n_experts) * (1 - 1e-12)
    rows = ROUTING.expected_rows(tokens, n_experts, top_k, tile=64)
    assert tokens * top_k * (1 - 1e-12) <= rows <= (tokens * top_k + n_experts * 64)


@given(shapes, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_expert_ids_are_distinct_within_a_token_and_repeatable(shape, layer, step, j, seed):
    tokens, n_experts, top_k = shape
    ids = Routing(seed=seed).expert_ids(tokens, n_experts, top_k, layer, step, j)
    assert ids.shape == (tokens, top_k)
    assert ids.dtype == np.int64
    assert np.all((ids >= 0) & (ids < n_experts))
    assert all(len(set(row)) == top_k for row in ids.tolist())
    again = Routing(seed=seed).expert_ids(tokens, n_experts, top_k, layer, step, j)
    assert np.array_equal(ids, again)


def test_every_place_has_draws_of_its_own():
    """Another seed, layer, step or micro-batch: another draw."""

    def ids(seed=0, layer=0, step=0, j=0):
        return tuple(Routing(seed=seed).expert_ids(64, 8, 2, layer, step, j).ravel())

    assert len({ids(), ids(seed=1), ids(layer=1), ids(step=1), ids(j=1)}) == 5


def test_expectations_do_not_depend_on_the_seed():
    assert Routing(seed=5).expected_rows(36, 8, 2, 16) == ROUTING.expected_rows(36, 8, 2, 16)


def test_a_gate_is_answered_with_the_draws_of_its_place():
    gate = Task(7, "gate", "gpu", layer=3, micro_batch=2, step=5)
    ids = ROUTING.trace(10, 8, 2, gate)
    assert np.array_equal(ids, ROUTING.expert_ids(10, 8, 2, layer=3, step=5, micro_batch=2))


def test_a_gate_of_no_micro_batch_is_that_of_the_first():
    gate = Task(7, "gate", "gpu", layer=3, micro_batch=-1, step=5)
    ids = ROUTING.trace(10, 8, 2, gate)
    assert np.array_equal(ids, ROUTING.expert_ids(10, 8, 2, layer=3, step=5, micro_batch=0))


@pytest.mark.parametrize("values", [{"kind": "zipf"}, {"seed": -1}, {"seed": 0.5}, {"skew": 1}])
def test_malformed_routing_is_refused(values):
    (key,) = values
    with pytest.raises(ValidationError, match=key):
        Routing(**values)


@pytest.mark.parametrize(("tokens", "n_experts", "top_k"), [(1000, 128, 1), (20_000, 8, 2)])
def test_uniform_draws_are_the_smallest_of_random_numbers(tokens, n_experts, top_k):
    """One generator for each gate, in one piece: earlier results stay as they are."""
    numbers = np.random.default_rng([3, 5, 2, 1]).random((tokens, n_experts))
    expected = np.argsort(numbers, axis=1)[:, :top_k]
    ids = Routing(seed=3).expert_ids(tokens, n_experts, top_k, layer=2, step=5, micro_batch=1)
    assert np.array_equal(ids, expected)


def test_only_what_is_said_is_written_down():
    """Provenance names the values of its kind; they make the same routing again."""
    assert Routing(seed=2).model_dump() == {"kind": "uniform", "seed": 2}
    skewed = Routing(kind="zipf", exponent=1.5, encoder={"exponent": 1.0})
    values = skewed.model_dump()
    assert set(values) == {"kind", "seed", "exponent", "encoder"}
    assert Routing(**values) == skewed
