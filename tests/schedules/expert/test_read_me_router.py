"""Read-ME's router, counted by hand, and batches that share experts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.batching import MicroBatch
from schedules.expert.read_me_router import Router, batches_by_expert
from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.routing import Routing


@pytest.fixture
def router() -> Router:
    """Of Mixtral: 32,000 tokens in the vocabulary, as in the paper; 8 experts; 2 B."""
    return Router(LayerWork(load_model("mixtral-8x7b"), Routing(), Kernels()), 8)


MATRICES = 4 * 512 * 512 + 3 * 512 * 512 + 512 * 8


def test_parameters(router):
    """The paper says 18.0 M."""
    assert router.parameters == 32_000 * 512 + MATRICES
    assert router.parameters / 1e6 == pytest.approx(18.0, rel=0.015)
    assert router.weight_bytes == 2 * router.parameters
    assert router.kv_bytes(10) == 10 * 2 * 512 * 2


def test_prompts(router):
    """3 and 5 tokens; half of the 9 + 25 pairs; the embeddings come in, the features go out."""
    work = router.route_prompts(MicroBatch(0, (3, 5)))
    assert work.flops == {"gemm": 8 * 2 * MATRICES, "attention": 17 * 4 * 512}
    assert work.bytes == {"gpu": 2 * (MATRICES + 8 * 2 * 512) + 8 * 2_048}
    assert work.calls == 1 + 7 + 3 + 2 + 5 + 4


def test_a_token_of_each_sequence(router):
    work = router.route_tokens(2, 10)
    assert work.flops == {"gemm": 2 * 2 * MATRICES, "attention": 10 * 4 * 512}
    assert work.bytes == {"gpu": 2 * (MATRICES + 2 * 2 * 512) + 10 * 2_048}
    assert router.route_tokens(2, 10) is work


@pytest.mark.parametrize(
    ("needs", "most", "expected"),
    [
        ([], 3, []),
        ([(1,), (1,)], 4, [[0, 1]]),
        ([(0,), (1,), (0,), (1,)], 2, [[0, 2], [1, 3]]),
        ([(2,), (1,), (1,), (1,)], 2, [[1, 2], [0, 3]]),  # one of 1 waits; 2 came first
        ([(0,), (1,), (1,), (2,)], 3, [[1, 2, 0], [3]]),  # the rest is filled
        ([(0, 1), (1, 2), (0, 1)], 2, [[0, 2], [1]]),  # sets of experts
    ],
)
def test_batches(needs, most, expected):
    assert batches_by_expert(needs, most) == expected


@given(st.lists(st.integers(0, 4).map(lambda e: (e,)), max_size=40), st.integers(1, 9))
def test_every_request_is_in_one_batch_and_all_but_the_last_are_full(needs, most):
    batches = batches_by_expert(needs, most)
    assert sorted(request for batch in batches for request in batch) == list(range(len(needs)))
    assert all(len(batch) == most for batch in batches[:-1])
    assert all(0 < len(batch) <= most for batch in batches)


@given(st.lists(st.integers(0, 4).map(lambda e: (e,)), min_size=1, max_size=40), st.integers(1, 9))
def test_queues_are_cut_only_where_a_batch_ends(needs, most):
    """A batch boundary splits at most one queue: experts are loaded at most once more for it."""
    batches = batches_by_expert(needs, most)
    loads = sum(len({needs[request] for request in batch}) for batch in batches)
    assert loads <= len(set(needs)) + len(batches) - 1
