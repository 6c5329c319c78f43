"""Cache policies against worked examples, and against the optimum."""

from collections.abc import Sequence
from functools import cache as memoised

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache, replay
from schedules.expert.cache_named import POLICIES, cache_policy
from schedules.expert.cache_policies import FIFO, LFU, LIFO, LRU, Belady, Key, Policy

LAYERS, EXPERTS = 4, 3
REQUESTS = st.builds(
    lambda layer, experts: [(layer, expert) for expert in experts],
    st.integers(0, LAYERS - 1),
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=EXPERTS, unique=True),
)
TRACES = st.lists(REQUESTS, max_size=25)


def named(name: str, trace: Sequence[Sequence[Key]]) -> Policy:
    return cache_policy(name, n_layers=LAYERS, n_experts=EXPERTS, future=trace)


def misses(text: str, capacity: int, policy: Policy) -> str:
    """The keys of `text`, one letter each, that are not hits."""
    cache = ExpertCache(capacity, policy)
    return "".join(key for key in text if not cache.access(key))


# -- by hand ---------------------------------------------------------------------------------------
# Two slots. Who leaves, in brackets: at each letter that is loaded into the full cache.


@pytest.mark.parametrize(
    ("policy", "text", "loaded"),
    [
        (LRU(), "abacb", "abcb"),  # c(b) b(a)
        (FIFO(), "abacb", "abc"),  # c(a)
        (FIFO(), "abaca", "abca"),  # c(a) a(b)
        (LIFO(), "abcab", "abcb"),  # c(b) b(c)
        (LFU(), "aabcb", "abcb"),  # c(b) b(c): one use, against two of a
        (LFU(), "aabbca", "abca"),  # c(a) a(c): of two uses each, a's are the older
        (LFU(), "abbbcabb", "abca"),  # c(a) a(c): one use, against three of b
        (
            LFU(keep_counts=True),
            "aabbbcac",
            "abcac",
        ),  # c(a) a(c) c(b): of three each, b's are older
        (
            Belady(["a", "b", "c", "a", "b", "c"]),
            "abcabc",
            "abcb",
        ),  # c(b) b(a): a is not used again
    ],
)
def test_worked_examples(policy: Policy, text: str, loaded: str) -> None:
    assert misses(text, 2, policy) == loaded


def test_frequency_with_and_without_memory() -> None:
    """a is used three times, evicted and reloaded; then it is compared with b's two uses."""
    text = "aaabbbb" + "c" + "a"  # c(a), a(c)
    new, old = LFU(), LFU(keep_counts=True)
    for policy in (new, old):
        assert misses(text, 2, policy) == "abca"
    # Now b has 4 uses; a has 1 in the one policy, 4 and a later last use in the other.
    assert new.evict(()) == "a"
    assert old.evict(()) == "b"


def test_belady_is_told_the_truth() -> None:
    cache = ExpertCache(2, Belady([["a", "b"], ["c"]]))
    cache.request(["b", "a"])  # the order within a request does not matter
    with pytest.raises(BadInput, match=r"request 1 is for \['d'\].*announced \['c'\]"):
        cache.request(["d"])
    cache.request(["c"])
    with pytest.raises(BadInput, match=r"request 2 .* none there"):
        cache.request(["c"])


def test_belady_knows_when_a_key_is_used_next() -> None:
    policy = Belady(["a", "b", "a"])
    assert policy.next_use("a") == 0
    ExpertCache(1, policy).access("a")
    assert (policy.next_use("a"), policy.next_use("b")) == (2, 1)
    assert policy.next_use("z") == float("inf")


# -- the optimum -----------------------------------------------------------------------------------


def fewest_misses(trace: Sequence[Sequence[Key]], capacity: int) -> int:
    """By trying every choice of who leaves."""

    @memoised
    def best(at: int, resident: frozenset[Key]) -> int:
        if at == len(trace):
            return 0
        wanted = frozenset(trace[at])
        return len(wanted - resident) + make_room(at, resident | wanted)

    @memoised
    def make_room(at: int, resident: frozenset[Key]) -> int:
        if len(resident) <= capacity:
            return best(at + 1, resident)
        return min(make_room(at, resident - {key}) for key in resident - frozenset(trace[at]))

    return best(0, frozenset())


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=2), max_size=10),
    st.integers(2, 4),
)
def test_belady_is_optimal(trace: list[list[str]], capacity: int) -> None:
    counts = replay(ExpertCache(capacity, Belady(trace)), trace)
    assert counts.misses == fewest_misses(trace, capacity)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(trace=TRACES, capacity=st.integers(EXPERTS, 8))
def test_no_policy_beats_belady(name: str, trace: list[list[Key]], capacity: int) -> None:
    counts = replay(ExpertCache(capacity, named(name, trace)), trace)
    assert replay(ExpertCache(capacity, Belady(trace)), trace).misses <= counts.misses


@given(TRACES, st.integers(EXPERTS, 8))
def test_a_larger_lru_holds_all_that_a_smaller_one_does(
    trace: list[list[Key]], capacity: int
) -> None:
    small, large = ExpertCache(capacity, LRU()), ExpertCache(capacity + 1, LRU())
    for keys in trace:
        hits = small.request(keys).hits
        assert set(hits) <= set(large.request(keys).hits)
        assert set(small.slots) <= set(large.slots)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(trace=TRACES)
def test_with_room_for_all_only_first_uses_miss(name: str, trace: list[list[Key]]) -> None:
    counts = replay(ExpertCache(LAYERS * EXPERTS, named(name, trace)), trace)
    assert counts.misses == len({key for keys in trace for key in keys})
    assert counts.evictions == 0
