"""Expected experts and rows of skewed routing: by enumeration and by drawing."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtrc

from schedules.routing import Routing
from schedules.routing_draws import popularity
from schedules.routing_expected import expected_tiles, inclusion, loads
from schedules.routing_strengths import Strengths
from schedules.routing_table import write_routing

ZIPF = Routing(kind="zipf", exponent=1.2)
MARKOV = Routing(kind="markov", exponent=1.2, token_correlation=0.6, layer_correlation=0.2)


def enumerated(weights, top_k):
    """Inclusion probabilities, summed over all ordered draws."""
    found = np.zeros(len(weights))
    for order in permutations(range(len(weights)), top_k):
        left, p = 1.0, 1.0
        for rank in order:
            p *= weights[rank] / left
            left -= weights[rank]
        found[list(order)] += p
    return found


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.2, 3.0])
@pytest.mark.parametrize(("n", "top_k"), [(3, 1), (3, 2), (4, 2), (5, 3), (6, 5), (4, 4)])
def test_inclusion_by_enumeration(n, top_k, exponent):
    exact = enumerated(popularity(n, exponent), top_k)
    assert inclusion(Strengths(exponent=exponent), n, top_k) == pytest.approx(exact, abs=1e-9)


def test_inclusion_by_hand():
    """Weights 2/3 and 1/3 of two active experts, top-1; with top-2 both are taken."""
    strengths = Strengths(exponent=1.0, active=2)
    assert inclusion(strengths, 4, 1).tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert inclusion(strengths, 4, 2).tolist() == [1, 1, 0, 0]
    assert inclusion(strengths, 4, 3).tolist() == [1, 1, 1, 0]  # a third one must be active


@given(
    st.integers(2, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, min(n, 8)))),
    st.floats(0, 10),
)
def test_inclusion_sums_to_top_k_and_falls_with_the_rank(shape, exponent):
    n, top_k = shape
    p = inclusion(Strengths(exponent=exponent), n, top_k)
    assert p.sum() == pytest.approx(top_k, rel=1e-6)
    assert np.all(np.diff(p) <= 1e-7)
    assert np.all((p >= 0) & (p <= 1 + 1e-9))


def test_without_skew_it_is_uniform_routing():
    flat = Routing(kind="zipf", exponent=0.0)
    for tokens, n, k in [(0, 8, 2), (1, 8, 2), (36, 8, 2), (7, 128, 1), (500, 60, 4)]:
        assert flat.expected_distinct(tokens, n, k) == pytest.approx(
            Routing().expected_distinct(tokens, n, k)
        )
        assert flat.expected_rows(tokens, n, k, 16) == pytest.approx(
            Routing().expected_rows(tokens, n, k, 16)
        )


def check(routing, batches, n, k, tile, **where):
    """Means over the drawn batches, shape (batches, tokens, k), within four standard errors."""
    drawn = loads(batches, n)
    tokens = batches.shape[1]
    for found, mean in (
        (np.count_nonzero(drawn, axis=1), routing.expected_distinct(tokens, n, k, **where)),
        (
            (-(-drawn // tile)).sum(axis=1) * tile,
            routing.expected_rows(tokens, n, k, tile, **where),
        ),
    ):
        error = found.std(ddof=1) / np.sqrt(len(found))
        assert abs(found.mean() - mean) <= 4 * error + 1e-9


@pytest.mark.parametrize("routing", [ZIPF, MARKOV], ids=["zipf", "markov"])
@pytest.mark.parametrize(
    ("tokens", "n", "k", "tile"), [(12, 8, 2, 4), (40, 128, 1, 2), (9, 20, 6, 2)]
)
def test_a_decode_step_by_drawing(routing, tokens, n, k, tile):
    """400 batches of other sequences each; a late step of a late layer."""
    batches = [routing.expert_ids(tokens, n, k, 2, 8, j) for j in range(400)]
    check(routing, np.array(batches), n, k, tile)


def test_a_prompt_without_correlation_by_drawing():
    batches = [ZIPF.expert_ids(30, 16, 2, 1, 0, j) for j in range(400)]
    check(ZIPF, np.array(batches), 16, 2, 4)


def test_a_prompt_of_a_correlated_encoder_by_drawing():
    """Consecutive tokens repeat: fewer experts than 30 tokens of other sequences take."""
    drawn = MARKOV.model_copy(update={"seed": 5})
    batches = [drawn.expert_ids(30, 16, 2, 2, 0, j) for j in range(4000)]
    found = np.count_nonzero(loads(np.array(batches), 16), axis=1)
    expected = MARKOV.expected_distinct(30, 16, 2, "encoder")
    both = found.std() * np.sqrt(1 / 4000 + 1 / 256)  # the expectation is a mean of 256 prompts
    assert abs(found.mean() - expected) <= 4 * both
    assert expected < MARKOV.expected_distinct(30, 16, 2, "decoder") - 1
    rows = MARKOV.expected_rows(30, 16, 2, 8, "encoder")
    assert 60 <= rows < MARKOV.expected_rows(30, 16, 2, 8, "decoder")
    assert MARKOV.expected_distinct(0, 16, 2, "encoder") == 0


def test_recorded_by_drawing(tmp_path):
    """Batches of 12 of 600 recorded tokens, in one layer of two; and the mean of both."""
    ids = np.stack([ZIPF.expert_ids(600, 16, 2, layer, 1) for layer in (0, 1)])
    rows = [
        pd.DataFrame(
            {"step": 1, "layer": layer, "request": np.arange(600), "position": 7}
            | {f"expert_{i}": ids[layer][:, i] for i in range(2)}
        )
        for layer in (0, 1)
    ]
    write_routing(pd.concat(rows), tmp_path / "r.parquet", 16)
    routing = Routing(kind="recorded", path=str(tmp_path / "r.parquet"))
    rng = np.random.default_rng(1)
    for layer in (0, 1):
        check(routing, ids[layer][rng.integers(600, size=(400, 12))], 16, 2, 4, layer=layer)
    each = [routing.expected_distinct(12, 16, 2, layer=layer) for layer in (0, 1)]
    assert routing.expected_distinct(12, 16, 2) == pytest.approx(np.mean(each))
    assert each[0] != each[1]


@given(st.sampled_from([ZIPF, MARKOV]), st.integers(0, 200), st.sampled_from([1, 4, 64]))
def test_bounds(routing, tokens, tile):
    for stack in ("encoder", "decoder"):
        distinct = routing.expected_distinct(tokens, 16, 2, stack)
        assert distinct <= min(16, max(tokens * 2, 1)) * (1 + 1e-9)
        assert distinct >= min(tokens, 1) * 2 * (1 - 1e-9)
        rows = routing.expected_rows(tokens, 16, 2, tile, stack)
        assert tokens * 2 * (1 - 1e-9) <= rows <= tokens * 2 + 16 * tile


def test_skew_touches_fewer_experts():
    counts = [
        Routing(kind="zipf", exponent=s).expected_distinct(20, 64, 2) for s in (0, 0.5, 1, 2, 4)
    ]
    assert counts == sorted(counts, reverse=True)


def test_a_dense_layer_is_one_expert():
    assert ZIPF.expected_distinct(100, 1, 1) == 1.0
    assert ZIPF.expected_rows(100, 1, 1, tile=64) == 100.0


def test_expectations_do_not_depend_on_the_seed():
    other = ZIPF.model_copy(update={"seed": 9})
    assert other.expected_rows(36, 8, 2, 16) == ZIPF.expected_rows(36, 8, 2, 16)


@given(st.integers(0, 100_000), st.floats(0, 1), st.sampled_from([1, 16, 64]))
def test_tiles_of_a_binomial(tokens, probability, tile):
    """Tiles of one row are as many as rows; others are those of the distribution's tail."""
    found = expected_tiles(tokens, probability, tile)
    tail = bdtrc(np.arange(0, tokens, tile), tokens, probability).sum()
    assert found == pytest.approx(tail, rel=1e-9, abs=1e-12)
    if tile == 1:
        assert found == pytest.approx(tokens * probability, rel=1e-11)
