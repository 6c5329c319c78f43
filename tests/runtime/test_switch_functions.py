"""Position bias, router and capacity of Switch Transformers: examples and laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.switch_transformers import modeling_switch_transformers as theirs

from runtime.functions.position_bias import bias_by_distance, bias_of_queries, buckets
from runtime.functions.switch_router import choose_one, skip_overflow
from runtime.pieces import LayerWeights, Piece
from runtime.workspace import Workspace

positions = st.integers(2, 24).flatmap(  # numbers of buckets, and distances beyond the exact ones
    lambda half: st.tuples(st.just(2 * half), st.integers(half + 1, 300))
)


@settings(max_examples=100)
@given(positions, st.booleans())
def test_buckets_are_those_of_transformers(sizes, bidirectional):
    count, farthest = sizes
    relative = torch.arange(-400, 401)
    wanted = theirs.SwitchTransformersAttention._relative_position_bucket(
        relative, bidirectional, count, farthest
    )
    assert torch.equal(buckets(relative, count, bidirectional, farthest), wanted)


def test_the_bias_of_queries_is_that_of_their_distances():
    """Three heads; keys up to four before the query and four after it."""
    by_distance = torch.randn(3, 9)
    made = bias_of_queries(by_distance, 1, 3, 4)
    assert made.shape == (3, 2, 4)
    for q in (1, 2):
        for k in range(4):
            assert torch.equal(made[:, q - 1, k], by_distance[:, 4 + k - q])


def test_bias_by_distance_reads_the_table():
    """Eight buckets for both sides: distance 0, 1, then shared ones; keys after it have 4 to 7."""
    table = torch.arange(16.0).view(8, 2)
    made = bias_by_distance(table, -2, 2, True, 20)
    assert made.tolist() == [[4.0, 2.0, 0.0, 10.0, 12.0], [5.0, 3.0, 1.0, 11.0, 13.0]]
    assert bias_by_distance(table, -2, 0, False, 20).tolist() == [[4.0, 2.0, 0.0], [5.0, 3.0, 1.0]]


# -- the router ------------------------------------------------------------------------------------


def choose(matrix, normed, cut, bias=None):
    """Ids and gates with the router's matrix in two pieces."""
    pieces = (Piece(0, cut, matrix[:cut]), Piece(cut, len(matrix), matrix[cut:]))
    w = LayerWeights({"router": pieces}, {} if bias is None else {"router_bias": bias})
    ids = torch.empty(len(normed), 1, dtype=torch.int64)
    gates = torch.empty(len(normed), 1, dtype=normed.dtype)
    choose_one(w, normed, ids, gates, len(matrix), Workspace.of_size(2**20))
    return ids, gates


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_router_is_that_of_transformers(dtype, has_bias):
    """In bfloat16 too, where rounded probabilities are often equal: then the first one counts.

    Weights and inputs are small multiples of powers of 2, so that sums are exact in any order.
    """
    config = theirs.SwitchTransformersConfig(d_model=16, num_experts=9, router_bias=has_bias)
    router = theirs.SwitchTransformersTop1Router(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in router.parameters():
            weight.copy_(torch.randint(-8, 9, weight.shape, generator=generator) / 256)
    normed = (torch.randint(-8, 9, (4000, 16), generator=generator) / 4).to(dtype)
    router = router.to(dtype)
    matrix = router.classifier.weight.detach().clone()
    bias = router.classifier.bias.detach().clone() if has_bias else None
    with torch.inference_mode():
        chosen, wanted, _ = router(normed.unsqueeze(1))  # each a sequence of its own: no overflow
        ids, gates = choose(matrix, normed, 4, bias)
    assert torch.equal(ids.view(-1), chosen.squeeze(1).argmax(1))
    assert torch.equal(gates, wanted.squeeze(1))


sequences = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=5)


@settings(max_examples=200)
@given(sequences, st.integers(1, 6))
def test_an_expert_takes_the_first_tokens_of_each_sequence(lists, capacity):
    ids = torch.tensor([expert for one in lists for expert in one])[:, None]
    gates = torch.full(ids.shape, 0.5)
    skip_overflow(ids, gates, [len(one) for one in lists], capacity, 5)
    wanted = [
        0.5 * (one[: i + 1].count(expert) <= capacity)
        for one in lists
        for i, expert in enumerate(one)
    ]
    assert gates.view(-1).tolist() == wanted
