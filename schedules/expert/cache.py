"""A cache of experts on the GPU: who is in which slot, who must be loaded, who leaves for it."""

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from schedules.errors import BadInput
from schedules.expert.cache_counts import Counts, Tally
from schedules.expert.cache_policies import Key, Policy
from schedules.validated import shown


@dataclass(frozen=True)
class Load:
    """An expert that must be copied.

    Attributes
    ----------
    slot: the slot that it overwrites and then occupies; None: there is no room, it is streamed
        through a buffer that is not the cache's, used, and not kept.
    evicted: who was in the slot; None if it was empty.
    """

    key: Key
    slot: int | None
    evicted: Key | None = None


@dataclass(frozen=True)
class Plan:
    """What a request needs: `hits` are resident (key to slot), `loads` in the order to copy."""

    hits: Mapping[Key, int]
    loads: tuple[Load, ...]

    @property
    def evictions(self) -> tuple[Key, ...]:
        """The keys that leave."""
        return tuple(load.evicted for load in self.loads if load.evicted is not None)

    @property
    def streamed(self) -> tuple[Key, ...]:
        """The keys that are loaded but not kept."""
        return tuple(load.key for load in self.loads if load.slot is None)


class ExpertCache:
    """Room for `capacity` experts of equal size, and a policy that says who leaves.

    Keys are (layer, expert), or anything hashable but None. The cache moves no bytes: it answers
    what a schedule has to copy where. Empty slots are filled in order, from 0.

    >>> from schedules.expert.cache_policies import LRU
    >>> cache = ExpertCache(2, LRU())
    >>> cache.request([(0, 3), (0, 5)]).loads
    (Load(key=(0, 3), slot=0, evicted=None), Load(key=(0, 5), slot=1, evicted=None))
    >>> cache.request([(1, 7), (0, 3)])
    Plan(hits={(0, 3): 0}, loads=(Load(key=(1, 7), slot=1, evicted=(0, 5)),))
    >>> cache.access((0, 5)), cache.counts.hit_rate
    (False, 0.2)

    Parameters
    ----------
    capacity: experts; 0 never hits. Raises `BadInput` if it is negative.
    policy: of this cache alone.
    """

    def __init__(self, capacity: int, policy: Policy) -> None:
        if capacity < 0:
            raise BadInput(f"a cache cannot have room for {capacity} experts, only for 0 or more")
        self.capacity = capacity
        self.policy = policy
        self._slots: dict[Key, int] = {}
        self._free = list(range(capacity))  # a heap
        self._pinned: set[Key] = set()
        self._tally = Tally()

    @property
    def slots(self) -> Mapping[Key, int]:
        """The resident keys and the slot of each; a live view."""
        return MappingProxyType(self._slots)

    @property
    def pinned(self) -> Collection[Key]:
        """The resident keys that cannot be evicted."""
        return frozenset(self._pinned)

    @property
    def counts(self) -> Counts:
        """What happened since the start, or since `reset_counts`."""
        return self._tally.total()

    @property
    def counts_by_layer(self) -> Mapping[Key, Counts]:
        """The same by the first element of the key; None stands for keys that are not tuples."""
        return self._tally.by_layer()

    def reset_counts(self) -> None:
        """Count from here on, for example after the prefill. The content stays."""
        self._tally = Tally()

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def access(self, key: Key, **context: Any) -> bool:
        """Request one key. True: it was resident. `context` is for the policy (`Policy.begin`)."""
        self.policy.begin((key,), **context)
        if key in self._slots:
            self._tally.of(key).hits += 1
            self.policy.use(key)
            return True
        self._load(key, self._pinned)
        return False

    def request(self, keys: Iterable[Key], **context: Any) -> Plan:
        """Request the experts of one layer at once; repeated keys count once.

        No key of the request is evicted by it. Where it needs more room than the cache can make,
        the keys that come last are streamed. `context` is for the policy (`Policy.begin`).
        """
        wanted = tuple(dict.fromkeys(keys))
        self.policy.begin(wanted, **context)
        keep = self._pinned.union(wanted)
        hits, loads = {}, []
        for key in wanted:
            if key in self._slots:
                hits[key] = self._slots[key]
                self._tally.of(key).hits += 1
                self.policy.use(key)
            else:
                loads.append(self._load(key, keep))
        return Plan(hits, tuple(loads))

    def insert(self, key: Key, *, pin: bool = False, keep: Collection[Key] = ()) -> Load | None:
        """Prefetch `key`: make it resident without a use.

        Returns what to copy; None if there is nothing to copy: the key is resident already, or
        pinned keys and those in `keep` (for example the experts that compute now) fill the cache.
        With `pin`, the key is pinned if it is resident now.
        """
        load = None
        if key not in self._slots:
            slot, evicted = self._room(self._pinned.union(keep) if keep else self._pinned)
            if slot is None:
                return None
            load = Load(key, slot, evicted)
            self._slots[key] = slot
            self.policy.add(key)
            self._tally.of(key).prefetches += 1
        if pin:
            self._pinned.add(key)
        return load

    def pin(self, key: Key) -> None:
        """Do not evict `key` until `unpin`. Raises `BadInput` if it is not resident."""
        if key not in self._slots:
            raise BadInput(f"{shown(key)} is not in the cache, only resident experts are pinned")
        self._pinned.add(key)

    def unpin(self, key: Key) -> None:
        """Allow `key` to be evicted again; no effect if it is not pinned."""
        self._pinned.discard(key)

    def drop(self, key: Key) -> int:
        """Take `key` out and return its slot, now empty. Raises `BadInput` if absent or pinned."""
        if key not in self._slots:
            raise BadInput(f"{shown(key)} is not in the cache, only resident experts are dropped")
        if key in self._pinned:
            raise BadInput(f"{shown(key)} is pinned; unpin it before it is dropped")
        slot = self._slots.pop(key)
        heapq.heappush(self._free, slot)
        self.policy.forget(key)
        return slot

    def _load(self, key: Key, keep: Collection[Key]) -> Load:
        """A miss: the key comes in where there is room."""
        tally = self._tally.of(key)
        tally.misses += 1
        slot, evicted = self._room(keep)
        if slot is None:
            tally.streamed += 1
        else:
            self._slots[key] = slot
            self.policy.add(key)
        self.policy.use(key)
        return Load(key, slot, evicted)

    def _room(self, keep: Collection[Key]) -> tuple[int | None, Key | None]:
        """An empty slot, or one that the policy empties and who left it; (None, None) if none."""
        if self._free:
            return heapq.heappop(self._free), None
        evicted = self.policy.evict(keep)
        if evicted is None:
            return None, None
        self._tally.of(evicted).evictions += 1
        return self._slots.pop(evicted), evicted


def replay(cache: ExpertCache, requests: Iterable[Iterable[Key]]) -> Counts:
    """Request one after the other and return what happened in all, hits and misses included."""
    before = cache.counts
    for keys in requests:
        cache.request(keys)
    return cache.counts - before
