"""What schedules share that foresee which experts come next, and prefetch them into a cache."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.expert.cache import ExpertCache
from schedules.expert.cache_counts import Counts, experts_in_ratio
from schedules.expert.cache_policies import Policy
from schedules.expert.moving import MovesExperts
from schedules.expert.places import Assigned, Places
from schedules.model import LayerSpec
from schedules.node import Node
from schedules.task import Buffer, Task

Pair = tuple[int, int]  # block and expert


class Store:
    """An expert cache with its places on the GPU, and places for what it has no room for.

    Layers are blocks: counted among the decoder's layers with experts.
    """

    def __init__(self, cache: ExpertCache, slots: Places, others: Places) -> None:
        self.cache, self.slots, self.others = cache, slots, others
        slots.take(cache.capacity)
        self.waiting: set[Pair] = set()  # prefetched, and their block has not run since
        self.judged = self.wrong = 0

    def holds(self, block: int, expert: int) -> bool:
        """Whether the expert is there, or on its way."""
        return (block, expert) in self.cache

    def request(self, block: int, experts: Sequence[int], **context: Any) -> Assigned:
        """Places for a block's experts; `context` is for the cache's policy."""
        plan = self.cache.request([(block, expert) for expert in experts], **context)
        streamed = iter(self.others.take(len(plan.streamed)))
        buffers = [
            next(streamed) if load.slot is None else self.slots.buffers[load.slot]
            for load in plan.loads
        ]
        missing = [expert for expert in experts if (block, expert) not in plan.hits]
        hits = (self.slots.buffers[slot] for slot in plan.hits.values())
        return Assigned(tuple(zip(missing, buffers, strict=True)), (*hits, *buffers))

    def prefetch(self, block: int, expert: int, keep: Collection[Pair]) -> Buffer | None:
        """Where to copy an expert; None if it is there, or if there is no room for it.

        Those in `keep`, which compute now, do not leave for it, nor do other prefetches that their
        blocks have not seen yet.
        """
        load = self.cache.insert((block, expert), keep=self.waiting.union(keep))
        if load is None or load.slot is None:
            return None
        self.waiting.add((block, expert))
        return self.slots.buffers[load.slot]

    def judge(self, block: int, experts: Iterable[int]) -> None:
        """The block's gate has named its experts: what else was prefetched for it was wrong."""
        foreseen = {key for key in self.waiting if key[0] == block}
        self.waiting -= foreseen
        self.judged += len(foreseen)
        self.wrong += len(foreseen.difference((block, expert) for expert in experts))


class ForeseesExperts(MovesExperts):
    """A cache for the decoder's experts; what is foreseen comes in before its gate has named it.

    A block that runs asks for its experts first; then come prefetches, which nothing cancels: what
    is issued is copied, in that order. The encoder's experts come when they are named.

    The cache has room for a share `cache_ratio` of the decoder's experts, and at least for those
    that two layers can take in a decode step. What a pass over prompts needs beyond it has places
    of its own.
    """

    for_real = False

    knobs = frozenset({"pinned", "cache_ratio"})
    sync_default = False

    def __init__(self, node: Node) -> None:
        self.blocks = [spec for spec in node.model.decoder_layers if spec.is_moe]
        super().__init__(node)

    @property
    @abstractmethod
    def stores(self) -> Sequence[Store]:
        """The caches, one for each precision."""

    def facts(self) -> dict[str, float]:
        """Hit rate of the caches, and the share of prefetches that the gate did not confirm."""
        counts = sum((store.cache.counts for store in self.stores), Counts())
        judged = sum(store.judged for store in self.stores)
        wrong = sum(store.wrong for store in self.stores)
        return {
            "hit_rate": counts.hit_rate,
            "wrong_prefetch_share": wrong / judged if judged else 0.0,
        }

    def new_store(self, tag: str, rule: Policy, size_bytes: float) -> Store:
        """A cache of experts of `size_bytes`, with its memory."""
        node, blocks = self.node, self.blocks
        taken = [min(s.n_experts, node.batches[0].size * s.top_k) for s in blocks]
        most = [int(min(s.n_experts, self.most_tokens * s.top_k)) for s in blocks]
        every = sum(spec.n_experts for spec in blocks)
        share = experts_in_ratio(node.policy.cache_ratio, 1, every)
        capacity = min(every, max(share, 2 * max(taken, default=0)))
        slots = Places(node, self.gpu, f"{tag}cache ", size_bytes, 0)
        beyond = max(0, max(most, default=0) - capacity)
        others = Places(node, self.gpu, tag, size_bytes, beyond)
        return Store(ExpertCache(capacity, rule), slots, others)

    # -- a block --------------------------------------------------------------------------------

    def ask(self, spec: LayerSpec, tokens: float, routed: Buffer, op: str = "gate") -> Task:
        """Let a gate name experts."""
        return self.compute(op, spec, [self.x], [routed], self.node.work.gate(spec, tokens))

    def answer(self, gate: Task) -> NDArray[np.int64]:
        """Wait for what a gate has named: expert ids, shape (tokens, top_k)."""
        return self.node.issuer.routing(gate)

    def bring(self, store: Store, block: int, assigned: Assigned) -> tuple[Buffer, ...]:
        """Copy what is missing; returns where all of them are."""
        for expert, place in assigned.loads:
            self.fetch(store, block, expert, place)
        return assigned.held

    def fetch(self, store: Store, block: int, expert: int, place: Buffer) -> None:
        """Copy an expert to a place of a store."""
        self.load(self.blocks[block], expert, place)

    def prefetch(self, store: Store, likely: Sequence[Pair], running: Iterable[Pair]) -> bool:
        """Copy what is likely and not there, as far as there is room; whether anything is copied.

        What computes now does not leave for it, nor what is likely too.
        """
        keep, came = {*likely, *running}, False
        for block, expert in likely:
            place = store.prefetch(block, expert, keep)
            if place is not None:
                self.fetch(store, block, expert, place)
                came = True
        return came
