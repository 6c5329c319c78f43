"""The expert cache: slots, hits, evictions, streaming, prefetches and pins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache, Load, Plan, replay
from schedules.expert.cache_policies import FIFO, LRU

A, B, C, D = ((0, expert) for expert in range(4))
LAYERS, EXPERTS = 3, 4
KEYS = st.tuples(st.integers(0, LAYERS - 1), st.integers(0, EXPERTS - 1))


def test_a_request_names_hits_loads_slots_and_evictions() -> None:
    cache = ExpertCache(3, LRU())
    assert cache.request([A, B, A]) == Plan({}, (Load(A, 0), Load(B, 1)))
    assert cache.request([C]) == Plan({}, (Load(C, 2),))
    plan = cache.request([A, D])  # A is used again, so B is the oldest
    assert plan == Plan({A: 0}, (Load(D, 1, evicted=B),))
    assert plan.evictions == (B,)
    assert plan.streamed == ()
    assert dict(cache.slots) == {A: 0, C: 2, D: 1}


def test_what_a_request_needs_is_not_evicted_by_it() -> None:
    cache = ExpertCache(2, LRU())
    cache.request([A, B])
    assert cache.request([C, A]).loads == (Load(C, 1, evicted=B),)  # A, though older than B


def test_the_surplus_of_a_large_request_is_streamed() -> None:
    cache = ExpertCache(2, LRU())
    cache.request([D])
    plan = cache.request([A, B, D, C])
    assert plan.hits == {D: 0}
    assert plan.loads == (Load(A, 1), Load(B, None), Load(C, None))
    assert plan.streamed == (B, C)
    assert set(cache.slots) == {A, D}
    assert (cache.counts.misses, cache.counts.streamed, cache.counts.evictions) == (4, 2, 0)


def test_without_room_nothing_is_ever_kept() -> None:
    cache = ExpertCache(0, LRU())
    assert not cache.access(A)
    assert cache.request([A, B]).streamed == (A, B)
    assert cache.insert(A) is None
    assert cache.counts.hit_rate == 0
    assert len(cache) == 0


def test_a_prefetch_hits_when_it_is_used() -> None:
    cache = ExpertCache(2, LRU())
    assert cache.insert(A) == Load(A, 0)
    assert cache.insert(A) is None  # already there
    assert cache.access(A)
    assert (cache.counts.prefetches, cache.counts.loads, cache.counts.requests) == (1, 1, 1)


def test_a_prefetch_in_flight_is_not_evicted() -> None:
    cache = ExpertCache(2, FIFO())
    cache.insert(A, pin=True)
    cache.request([B])
    assert cache.request([C]).evictions == (B,)
    cache.pin(C)
    assert cache.request([D]).streamed == (D,)  # all slots are pinned
    cache.unpin(A)
    assert cache.request([D]).evictions == (A,)
    assert cache.pinned == {C}


def test_a_prefetch_spares_the_experts_that_compute() -> None:
    cache = ExpertCache(2, LRU())
    cache.request([A, B])
    assert cache.insert(C, keep=[A, B]) is None
    assert cache.insert(C, keep=[A]) == Load(C, 1, evicted=B)


def test_dropped_slots_are_filled_from_the_lowest() -> None:
    cache = ExpertCache(3, LRU())
    cache.request([A, B, C])
    assert [cache.drop(key) for key in (C, A)] == [2, 0]
    assert cache.request([D]).loads == (Load(D, 0),)
    assert B in cache
    assert C not in cache


def test_counts_by_layer() -> None:
    cache = ExpertCache(2, LRU())
    cache.request([(0, 1), (0, 2)])
    cache.request([(1, 1)])  # evicts (0, 1)
    cache.request([(1, 1)])
    by_layer = cache.counts_by_layer
    assert (by_layer[0].hits, by_layer[0].misses, by_layer[0].evictions) == (0, 2, 1)
    assert (by_layer[1].hits, by_layer[1].misses, by_layer[1].evictions) == (1, 1, 0)
    assert by_layer[1].hit_rate == 0.5
    assert cache.counts.hit_rate == 0.25
    cache.reset_counts()
    assert cache.counts.requests == 0
    assert cache.access((1, 1))


def test_keys_need_not_be_pairs() -> None:
    cache = ExpertCache(1, LRU())
    cache.access("expert")
    assert cache.counts_by_layer[None].misses == 1


def test_replay_counts_from_where_it_starts() -> None:
    cache = ExpertCache(2, LRU())
    cache.request([A])
    counts = replay(cache, [[A, B], [B], [C]])
    assert (counts.hits, counts.misses, counts.evictions) == (2, 2, 1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda cache: cache.pin(B), r"\(0, 1\) is not in the cache.*pinned"),
        (lambda cache: cache.drop(B), r"\(0, 1\) is not in the cache.*dropped"),
        (lambda cache: cache.drop(A), "unpin it"),
        (lambda cache: cache.access(A, token=3), "'lru' takes no token"),
        (lambda cache: ExpertCache(-1, LRU()), "room for -1 experts"),
    ],
)
def test_mistakes(act, message) -> None:
    cache = ExpertCache(2, LRU())
    cache.insert(A, pin=True)
    with pytest.raises(BadInput, match=message):
        act(cache)


@given(st.lists(st.lists(KEYS, max_size=5), max_size=20), st.integers(0, 5))
def test_the_loads_keep_a_copy_of_the_slots_right(requests, capacity) -> None:
    """Who follows the plans alone knows what is in each slot, and what he needs is there."""
    cache, slots, streamed = ExpertCache(capacity, LRU()), {}, 0
    for keys in requests:
        plan = cache.request(keys)
        for load in plan.loads:
            if load.slot is not None:
                assert slots.get(load.slot) == load.evicted
                slots[load.slot] = load.key
        streamed += len(plan.streamed)
        assert {slot: key for key, slot in cache.slots.items()} == slots
        assert set(plan.hits) | {load.key for load in plan.loads} == set(keys)
        assert set(keys) - set(plan.streamed) <= set(cache.slots)
        assert set(slots) <= set(range(capacity))
        assert not plan.streamed or len(set(keys)) > capacity
    counts = cache.counts
    assert counts.requests == sum(len(set(keys)) for keys in requests)
    assert counts.misses == len(cache) + counts.evictions + counts.streamed
    assert counts.streamed == streamed
