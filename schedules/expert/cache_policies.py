"""Which expert leaves a full cache: recency, frequency, order of arrival, and the optimum."""

import heapq
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any, ClassVar

from schedules.errors import BadInput
from schedules.validated import shown

Key = Hashable  # usually (layer, expert)


class Policy(ABC):
    """Decides which resident key is evicted; an `ExpertCache` tells it what happens.

    One instance belongs to one cache. For each request the cache calls `begin` once, then for each
    key of it, in order, `add` if the key comes in, and `use`. A prefetch is an `add` without `use`.
    """

    name: ClassVar[str]

    def begin(self, keys: Sequence[Key], **context: Any) -> None:
        """A request for `keys` starts. Raises `BadInput` on context that the policy has no use for.

        `context` is what the policies of some papers know besides the key, see their `begin`.
        """
        if context:
            raise BadInput(f"cache policy '{self.name}' takes no {', '.join(sorted(context))}")

    @abstractmethod
    def add(self, key: Key) -> None:
        """`key` becomes resident."""

    @abstractmethod
    def use(self, key: Key) -> None:
        """`key` is requested; it is resident unless there was no room for it."""

    @abstractmethod
    def evict(self, keep: Collection[Key]) -> Key | None:
        """Forget one resident key that is not in `keep` and return it; None if there is none."""

    @abstractmethod
    def forget(self, key: Key) -> None:
        """The resident `key` leaves for another reason than `evict`."""


class FIFO(Policy):
    """First in, first out: the key that was loaded first leaves. Use does not matter.

    SiDA evicts so when its memory budget is spent (arXiv 2310.18859, section 3.1).
    """

    name = "fifo"

    def __init__(self) -> None:
        self._order: OrderedDict[Key, None] = OrderedDict()  # the resident keys

    def add(self, key: Key) -> None:
        self._order[key] = None

    def use(self, key: Key) -> None:
        pass

    def evict(self, keep: Collection[Key]) -> Key | None:
        for key in self._order:
            if key not in keep:
                del self._order[key]
                return key
        return None

    def forget(self, key: Key) -> None:
        del self._order[key]


class LIFO(FIFO):
    """Last in, first out: the key that was loaded last leaves. Use does not matter.

    One of the three policies in the code of Pre-gated MoE (`utils/lifo_cache_policy.h`), which
    also evicts the encoder's experts before the decoder's; that rule is left out here.
    """

    name = "lifo"

    def evict(self, keep: Collection[Key]) -> Key | None:
        for key in reversed(self._order):
            if key not in keep:
                del self._order[key]
                return key
        return None


class LRU(FIFO):
    """Least recently used: the key whose last use, or load, is longest ago leaves.

    Mixtral-offloading evicts so (arXiv 2312.17238), with a cache of its own for each layer; so does
    the code of Pre-gated MoE (`utils/lru_cache_policy.h`), with one cache for all layers.
    """

    name = "lru"

    def use(self, key: Key) -> None:
        if key in self._order:
            self._order.move_to_end(key)


class LFU(Policy):
    """Least frequently used: the key with the fewest uses leaves; of equals, as LRU.

    Parameters
    ----------
    keep_counts: count all uses of a key since the start. Without, a key that comes back starts
        anew, as in the code of Pre-gated MoE (`utils/lfu_cache_policy.h`), which in addition resets
        all counts between encoder and decoder; that is left out here.
    """

    name = "lfu"

    def __init__(self, keep_counts: bool = False) -> None:
        self.keep_counts = keep_counts
        self._clock = 0
        self._uses: dict[Key, int] = {}
        self._rank: dict[Key, tuple[int, int]] = {}  # (uses, time of the last one) of the residents
        # One entry per resident. Ranks only grow, so an entry may lag behind but never run ahead:
        # `evict` brings those up to date that come to the top.
        self._heap: list[tuple[int, int, Key]] = []

    def add(self, key: Key) -> None:
        self._clock += 1
        self._rank[key] = uses, time = self._uses.get(key, 0), self._clock
        heapq.heappush(self._heap, (uses, time, key))

    def use(self, key: Key) -> None:
        self._clock += 1
        if self.keep_counts or key in self._rank:
            self._uses[key] = uses = self._uses.get(key, 0) + 1
            if key in self._rank:
                self._rank[key] = uses, self._clock

    def evict(self, keep: Collection[Key]) -> Key | None:
        kept, victim = [], None
        while self._heap:
            entry = heapq.heappop(self._heap)
            key, rank = entry[2], self._rank[entry[2]]
            if rank != entry[:2]:
                heapq.heappush(self._heap, (*rank, key))
            elif key in keep:
                kept.append(entry)
            else:
                victim = key
                self._left(key)
                break
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return victim

    def forget(self, key: Key) -> None:
        self._left(key)
        self._heap = [entry for entry in self._heap if entry[2] != key]
        heapq.heapify(self._heap)

    def _left(self, key: Key) -> None:
        del self._rank[key]
        if not self.keep_counts:
            self._uses.pop(key, None)


class Belady(LRU):
    """The offline optimum: the key whose next use is farthest in the future leaves; ties as LRU.

    Of all caches that load on demand and keep what they load, it has the fewest misses, as long as
    every request fits. Source: L. A. Belady, A study of replacement algorithms for a
    virtual-storage computer, IBM Systems Journal 5(2), 1966 (MIN). Read-ME evicts so, over the
    requests that wait in its queue (section 4.1, "Belady-inspired Caching").

    Parameters
    ----------
    future: all requests to come, in order, each with its keys. A single access is a request of one
        key. `begin` raises `BadInput` when a request is not the one that was announced.
    """

    name = "belady"

    def __init__(self, future: Iterable[Iterable[Key]]) -> None:
        super().__init__()
        self._future = [frozenset(keys) for keys in future]
        self._now = 0
        self._uses: dict[Key, list[int]] = {}  # positions of the uses to come, the next one last
        for position in range(len(self._future) - 1, -1, -1):
            for key in self._future[position]:
                self._uses.setdefault(key, []).append(position)

    def begin(self, keys: Sequence[Key], **context: Any) -> None:
        super().begin(keys, **context)
        expected = self._future[self._now] if self._now < len(self._future) else frozenset()
        if expected != set(keys) or self._now >= len(self._future):
            there = f"announced {shown(sorted(expected, key=repr))}" if expected else "none there"
            raise BadInput(
                f"request {self._now} is for {shown(list(keys))}, but the future that the policy "
                f"'belady' was given has {there}"
            )
        self._now += 1
        for key in expected:
            self._uses[key].pop()

    def evict(self, keep: Collection[Key]) -> Key | None:
        victim = max(
            (key for key in self._order if key not in keep), key=self.next_use, default=None
        )
        if victim is not None:
            self.forget(victim)
        return victim

    def next_use(self, key: Key) -> float:
        """Number of the next request for `key`, from 0; infinity if there is none."""
        uses = self._uses.get(key)
        return uses[-1] if uses else float("inf")
