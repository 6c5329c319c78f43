"""Correlated routing: repeats, popularity, and the same answer whatever the order of asking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.routing_chains import Chains, chains
from schedules.routing_strengths import Strengths

LAYERS = (1, 3, 5)


def make(label="decoder", n_experts=16, top_k=2, seed=0, layers=LAYERS, **strengths):
    return Chains(Strengths(**strengths), seed, label, n_experts, top_k, layers)


def block(drawn, layer, sequences, length):
    """Expert ids of whole sequences, shape (sequences, length, top_k)."""
    s, p = np.divmod(np.arange(sequences * length), length)
    return drawn.ids(layer, s, p).reshape(sequences, length, -1)


mixtures = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(
    lambda m: {"token_correlation": m[0], "layer_correlation": (1 - m[0]) * m[1]}
)


def test_shares_of_repeats_are_the_stated_strengths():
    """100 x 200 tokens of 1000 alike experts, which hardly repeat by chance (1 in 1000)."""
    drawn = make(n_experts=1000, top_k=1, token_correlation=0.3, layer_correlation=0.4)
    drawn.reserve(100, 200)
    first, error = drawn.ranks(1)[:, :, 0], 4 * np.sqrt(0.25 / 20_000)
    assert abs(np.mean(first[:, 1:] == first[:, :-1]) - 0.3) < error + 0.001
    second = drawn.ranks(3)[
        :, :, 0
    ]  # a token also repeats if it and the one before it repeat those
    twice = 0.3 + 0.4 * 0.3 * 0.4  # of the layer before, and these are alike
    assert abs(np.mean(second[:, 1:] == second[:, :-1]) - twice) < error + 0.01
    alone = make(n_experts=1000, top_k=1, layer_correlation=0.4)
    alone.reserve(100, 200)
    assert abs(np.mean(alone.ranks(3) == alone.ranks(1)) - 0.4) < error + 0.001


def test_everything_repeats():
    """With strength 1 a sequence takes the experts of its first token, or of its first layer."""
    runs = block(make(token_correlation=1.0), 3, 5, 20)
    assert np.all(runs == runs[:, :1])
    assert len({tuple(row[0]) for row in runs.tolist()}) > 1
    down = make(layer_correlation=1.0)
    down.reserve(5, 20)
    assert np.array_equal(down.ranks(5), down.ranks(1))
    assert not np.array_equal(block(down, 5, 5, 20), block(down, 1, 5, 20))  # other experts


def test_the_expert_of_the_layer_before_leads_to_one_by_a_fixed_permutation():
    down = make(top_k=1, layer_correlation=1.0)
    pairs = np.stack([block(down, 1, 8, 50).ravel(), block(down, 3, 8, 50).ravel()], axis=1)
    leads = np.unique(pairs, axis=0)
    assert len(leads) == len(set(leads[:, 0])) == len(set(leads[:, 1])) == 16


@pytest.mark.parametrize("layer", LAYERS)
def test_correlation_leaves_the_popularity_of_zipf_s_law(layer):
    """4000 sequences, one late token of each: independent. Four standard errors."""
    drawn = make(top_k=1, exponent=1.2, token_correlation=0.5, layer_correlation=0.3)
    drawn.reserve(4000, 9)
    share = np.bincount(drawn.ranks(layer)[:, 8, 0], minlength=16) / 4000
    p = np.arange(1, 17) ** -1.2
    p /= p.sum()
    assert np.all(np.abs(share - p) <= 4 * np.sqrt(p * (1 - p) / 4000))


@given(mixtures, st.integers(1, 5), st.integers(0, 3), st.floats(0, 4))
def test_experts_of_a_token_are_distinct(mixture, top_k, seed, exponent):
    drawn = make(n_experts=6, top_k=top_k, seed=seed, exponent=exponent, **mixture)
    ids = block(drawn, 5, 3, 10)
    assert np.all((ids >= 0) & (ids < 6))
    assert np.all(np.diff(np.sort(ids, axis=2), axis=2) > 0)


asked = st.tuples(st.sampled_from(LAYERS), st.integers(0, 6), st.integers(0, 25))


@given(st.lists(asked, min_size=1, max_size=12), mixtures)
def test_the_order_of_asking_does_not_matter(places, mixture):
    """Tokens asked for one by one, as they come, are those of whole sequences drawn at once."""
    whole = {layer: block(make(exponent=1.0, **mixture), layer, 7, 26) for layer in LAYERS}
    drawn = make(exponent=1.0, **mixture)
    for layer, sequence, position in places:
        one = drawn.ids(layer, np.array([sequence]), np.array([position]))
        assert np.array_equal(one[0], whole[layer][sequence, position])


def test_draws_differ_by_seed_layer_stack_and_prompt():
    def ids(layer=1, **changes):
        return tuple(block(make(exponent=1.0, **changes), layer, 4, 30).ravel())

    every = [ids(), ids(seed=1), ids(layer=3), ids(label="encoder"), ids(label="prompt")]
    assert len(set(every)) == 5


def test_each_layer_has_popular_experts_of_its_own():
    """A plain prompt meets the decoder's popular experts; the encoder has its own."""
    orders = [
        tuple(make(label=label).experts(n)) for label in ("decoder", "encoder") for n in LAYERS
    ]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert tuple(make(label="prompt").experts(1)) == orders[0]


def test_layers_without_a_list_count_from_zero():
    free, listed = (
        make(layers=None, layer_correlation=0.5),
        make(layers=(0, 1, 2, 3), layer_correlation=0.5),
    )
    assert np.array_equal(block(free, 3, 4, 9), block(listed, 3, 4, 9))


def test_nobody_comes():
    none = np.array([], dtype=np.int64)
    assert make().ids(1, none, none).shape == (0, 2)


def test_what_was_drawn_is_kept():
    strengths = Strengths(exponent=1.0)
    first = chains(strengths, 0, "decoder", 8, 2, LAYERS)
    first.reserve(4, 8)
    assert chains(Strengths(exponent=1.0), 0, "decoder", 8, 2, LAYERS) is first
    kept = first.ranks(1)
    first.reserve(2, 8)
    assert first.ranks(1) is kept


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"token_correlation": 0.6, "layer_correlation": 0.5}, "together they must not exceed 1"),
        ({"exponent": -1}, "exponent"),
        ({"exponent": float("nan")}, "exponent"),
        ({"active": 0}, "active"),
        ({"layer_correlation": 1.5}, "layer_correlation"),
    ],
)
def test_impossible_strengths(values, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Strengths(**values)
