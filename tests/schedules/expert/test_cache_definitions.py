"""Each cache policy against a naive reading of its definition.

The naive cache keeps a list of all that ever happened. Whenever an expert must leave, it asks that
list what each resident is worth, with exact fractions, and the one worth least leaves.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.expert.cache import ExpertCache
from schedules.expert.cache_hobbit import Hobbit
from schedules.expert.cache_infinity import MoEInfinity
from schedules.expert.cache_policies import FIFO, LFU, LIFO, LRU, Key, Policy
from schedules.expert.cache_scored import EdgeMoE

LAYERS, EXPERTS = 4, 3  # 4: distances over it are exact in floating point
WEIGHTS = (0.5, 0.25, 0.125, 0.125)  # and so are these


class Event(NamedTuple):
    """What happened to a key: it was loaded or used, by which token, in which precision."""

    kind: str
    key: Key
    token: int = 1
    high: bool = True


class Past:
    """Everything that happened so far, as a list, and the questions that policies ask about it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.layer, self.token = 0, 1

    def last(self, key: Key, *kinds: str) -> int:
        """Number of the last event of these kinds."""
        return max(i for i, e in enumerate(self.events) if e.key == key and e.kind in kinds)

    def touched(self, key: Key) -> int:
        return self.last(key, "load", "use")

    def used(self, key: Key) -> list[Event]:
        return [e for e in self.events if e.key == key and e.kind == "use"]

    def used_since_load(self, key: Key) -> int:
        since = self.events[self.last(key, "load") :]
        return sum(e.key == key and e.kind == "use" for e in since)

    def ahead(self, key: Key) -> int:
        return next(d for d in range(LAYERS) if (self.layer + d) % LAYERS == key[0])


def hobbit(past: Past, key: Key) -> Fraction:
    used = past.used(key)
    last = used[-1].token if used else 0
    near = 1 - Fraction(past.ahead(key), LAYERS)
    terms = (last, len(used), sum(e.high for e in used))
    *w, w_fld = map(Fraction, WEIGHTS)
    return sum(w[i] * terms[i] / past.token for i in range(3)) + w_fld * near


def edgemoe(past: Past, key: Key) -> Fraction:
    return Fraction(len(past.used(key)), past.ahead(key) or LAYERS)


def infinity(past: Past, key: Key) -> Fraction:
    row = sum(len(past.used((key[0], expert))) for expert in range(EXPERTS))
    ratio = Fraction(len(past.used(key)), row) if row else Fraction(0)
    return (ratio + Fraction(1, 10**6)) * (1 - Fraction(key[0], LAYERS))


Worth = Callable[[Past, Key], Any]
ONLINE: dict[str, tuple[Callable[[], Policy], Worth]] = {  # who is worth least leaves
    "lru": (LRU, Past.touched),
    "fifo": (FIFO, lambda past, key: past.last(key, "load")),
    "lifo": (LIFO, lambda past, key: -past.last(key, "load")),
    "lfu": (LFU, lambda past, key: (past.used_since_load(key), past.touched(key))),
    "lfu, all": (
        lambda: LFU(keep_counts=True),
        lambda past, key: (len(past.used(key)), past.touched(key)),
    ),
    "hobbit": (
        lambda: Hobbit(LAYERS, WEIGHTS),
        lambda past, key: (hobbit(past, key), past.touched(key)),
    ),
    "edgemoe": (
        lambda: EdgeMoE(LAYERS),
        lambda past, key: (edgemoe(past, key), past.touched(key)),
    ),
    "moe-infinity": (
        lambda: MoEInfinity(LAYERS, EXPERTS),
        lambda past, key: (infinity(past, key), past.touched(key)),
    ),
}


class NaiveCache:
    """A list of residents; whenever one must leave, all are judged by the whole past."""

    def __init__(self, capacity: int, worth: Worth) -> None:
        self.capacity, self.worth, self.past = capacity, worth, Past()
        self.resident: list[Key] = []
        self.pinned: set[Key] = set()

    def load(self, key: Key, keep: Sequence[Key]) -> Key | None:
        """Load `key` if there is room or someone leaves; returns who left."""
        victim = None
        if len(self.resident) == self.capacity:
            others = [k for k in self.resident if k not in keep and k not in self.pinned]
            if not others:
                return None
            victim = min(others, key=lambda k: self.worth(self.past, k))
            self.resident.remove(victim)
        self.resident.append(key)
        self.past.events.append(Event("load", key))
        return victim

    def request(self, keys: Sequence[Key], token: int, high: bool) -> tuple[set[Key], list[Key]]:
        """The hits, and who left."""
        hits, left = set(self.resident) & set(keys), []
        self.past.layer, self.past.token = keys[0][0], token
        for key in keys:
            if key not in self.resident:
                victim = self.load(key, keys)
                left += [victim] if victim else []
            self.past.events.append(Event("use", key, token, high))
        return hits, left


REQUESTS = st.builds(
    lambda layer, experts: [(layer, expert) for expert in experts],
    st.integers(0, LAYERS - 1),
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=EXPERTS, unique=True),
)
KEYS = st.tuples(st.integers(0, LAYERS - 1), st.integers(0, EXPERTS - 1))
TOKENS = st.sampled_from([1, 2, 4, 8])  # powers of two: what is divided by them is exact
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), REQUESTS, TOKENS, st.booleans()),
        st.tuples(st.sampled_from(["insert", "drop", "pin", "unpin"]), KEYS),
    ),
    max_size=30,
)


@pytest.mark.parametrize("name", ONLINE)
@given(actions=ACTIONS, capacity=st.integers(0, 6))
def test_the_definition(name: str, actions: list[tuple[Any, ...]], capacity: int) -> None:
    make, worth = ONLINE[name]
    cache, naive = ExpertCache(capacity, make()), NaiveCache(capacity, worth)
    for action, what, *more in actions:
        if action == "request":
            context = dict(zip(("token", "high"), more, strict=True)) if name == "hobbit" else {}
            plan = cache.request(what, **context)
            assert (set(plan.hits), list(plan.evictions)) == naive.request(what, *more)
        elif action == "insert":
            absent = what not in cache
            load = cache.insert(what)
            left = naive.load(what, ()) if absent else None
            assert (load.evicted if load else None) == left
        elif (
            what in cache and action != "unpin" and not (action == "drop" and what in cache.pinned)
        ):
            getattr(cache, action)(what)
            if action == "pin":
                naive.pinned.add(what)
            else:
                naive.resident.remove(what)
        elif action == "unpin":
            cache.unpin(what)
            naive.pinned.discard(what)
        assert set(cache.slots) == set(naive.resident)
        assert cache.pinned == naive.pinned
