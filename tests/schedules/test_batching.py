"""Request batching: MoE-Lightning's algorithm 2 by hand, by brute force and by its properties."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schedules.batching import MicroBatch, balance
from schedules.errors import BadInput
from schedules.workload_presets import load_workload

lengths = st.lists(st.integers(1, 2000), min_size=1, max_size=120)
sizes = st.integers(1, 40)


def contents(batches):
    return [batch.prompt_lengths for batch in batches]


def test_worked_by_hand():
    """Three micro-batches of at most 3.

    9 8 7 open them (tokens 9 8 7); 6 joins the third (13); 5 the second (13); 4 the first (13); at
    equal tokens 3 joins the first (16), which is full; 2 the second (15), full.
    """
    batches = balance([2, 3, 4, 5, 6, 7, 8, 9], micro_batch_size=3)
    assert contents(batches) == [(9, 4, 3), (8, 5, 2), (7, 6)]
    assert [batch.index for batch in batches] == [0, 1, 2]
    assert [batch.prompt_tokens for batch in batches] == [16, 15, 13]


def test_a_full_micro_batch_takes_no_more_even_with_the_fewest_tokens():
    assert contents(balance([100, 1, 1, 1], micro_batch_size=2)) == [(100, 1), (1, 1)]
    assert contents(balance([9, 1, 1, 1, 1], micro_batch_size=3)) == [(9, 1), (1, 1, 1)]


def test_equal_lengths_are_dealt_in_turn():
    assert contents(balance([5] * 7, micro_batch_size=3)) == [(5, 5, 5), (5, 5), (5, 5)]


def test_what_a_micro_batch_counts():
    batch = MicroBatch(index=4, prompt_lengths=(10, 3, 2))
    assert (batch.size, batch.prompt_tokens, batch.longest) == (3, 15, 10)
    assert batch.sum_of_squares == 113
    with pytest.raises(AttributeError):
        batch.index = 5


def test_which_requests_are_where():
    """As worked by hand above: 9 is the eighth request, number 7, and so on."""
    batches = balance([2, 3, 4, 5, 6, 7, 8, 9], micro_batch_size=3)
    assert [batch.requests for batch in batches] == [(7, 2, 1), (6, 3, 0), (5, 4)]


def test_equal_requests_stay_in_their_order():
    batches = balance([5] * 7, micro_batch_size=3)
    assert [batch.requests for batch in batches] == [(0, 3, 6), (1, 4), (2, 5)]


def test_micro_batches_of_the_same_prompts_are_equal_whoever_they_are():
    assert MicroBatch(0, (5, 3), (0, 1)) == MicroBatch(0, (5, 3), (7, 2)) == MicroBatch(0, (5, 3))


@given(lengths, sizes)
def test_requests_go_with_their_prompts(lengths, mu):
    """Each is in one micro-batch, in the place of its length."""
    batches = balance(lengths, mu)
    every = [request for batch in batches for request in batch.requests]
    assert sorted(every) == list(range(len(lengths)))
    for batch in batches:
        assert batch.prompt_lengths == tuple(lengths[request] for request in batch.requests)


@given(lengths, sizes)
def test_every_request_is_placed_once_and_no_micro_batch_is_too_large(lengths, mu):
    batches = balance(lengths, mu)
    assert Counter(length for batch in batches for length in batch.prompt_lengths) == Counter(
        lengths
    )
    assert len(batches) == (len(lengths) + mu - 1) // mu
    assert all(1 <= batch.size <= mu for batch in batches)
    assert [batch.index for batch in batches] == list(range(len(batches)))


@given(lengths, sizes)
def test_equals_the_algorithm_without_a_heap(lengths, mu):
    expected = [[] for _ in range((len(lengths) + mu - 1) // mu)]
    for length in sorted(lengths, reverse=True):
        min((held for held in expected if len(held) < mu), key=sum).append(length)
    assert contents(balance(lengths, mu)) == [tuple(held) for held in expected]


@given(lengths, sizes, st.randoms(use_true_random=False))
def test_the_order_of_the_requests_does_not_matter(lengths, mu, random):
    shuffled = random.sample(lengths, len(lengths))
    assert balance(shuffled, mu) == balance(lengths, mu)


@given(st.data())
def test_tokens_differ_by_at_most_the_longest_while_all_have_room(data):
    count = data.draw(st.integers(2, 4))
    mu = data.draw(st.integers(count + 1, 20))
    size = data.draw(st.integers((count - 1) * mu + 1, count * (mu - 1)))
    requests = data.draw(st.lists(st.integers(100, 120), min_size=size, max_size=size))
    batches = balance(requests, mu)
    assume(all(batch.size < mu for batch in batches))
    tokens = [batch.prompt_tokens for batch in batches]
    assert max(tokens) - min(tokens) <= max(requests)


def test_a_hundred_thousand_mtbench_requests_spread_within_one_percent():
    requests = load_workload("mtbench").requests(100_000)
    tokens = [batch.prompt_tokens for batch in balance(requests, 500)]
    assert len(tokens) == 200
    assert sum(tokens) == 7_700_000
    assert max(tokens) - min(tokens) <= 0.01 * 38_500


def test_errors():
    with pytest.raises(BadInput, match="no requests to batch"):
        balance([], 4)
    for mu in (0, -1, 1.5):
        with pytest.raises(BadInput, match="the micro-batch size is"):
            balance([1], mu)
    for length in (0, -7, 2.5, float("nan")):
        with pytest.raises(BadInput, match="a prompt length is"):
            balance([3, length], 4)
