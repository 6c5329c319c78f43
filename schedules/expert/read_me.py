"""Read-ME: one router before the model names the experts of all layers."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.batching import MicroBatch
from schedules.choices import SKIPPED, token_counts
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_counts import experts_in_ratio
from schedules.expert.cache_policies import Belady
from schedules.expert.moving import MovesExperts
from schedules.expert.places import CachedPlaces, Places
from schedules.expert.read_me_router import Router, batches_by_expert
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.task import Buffer, Task, Work

TURNS = 2  # the layer that computes and the one that comes


class Batch(NamedTuple):
    """Tokens that go through the layers together.

    `homes` are the micro-batches whose caches it touches, `counts` the tokens of each expert,
    `core` the work of attention in a layer, `end` what follows the last one.
    """

    homes: Sequence[int]
    tokens: float
    counts: NDArray[np.int64]
    core: Callable[[LayerSpec], Work]
    end: Work


class ReadME(MovesExperts):
    """The router names the experts of every queued token, exactly and for all layers; while a layer
    computes, those of the next one are copied (Read-ME, arXiv 2410.19123, section 4, algorithm 1).

    A decode step forms batches of up to mu sequences that share experts, the longest queue first;
    prompts stay in the micro-batches they are in. A batch begins when the one before has ended, so
    the copy of its first experts is exposed, unless they are in the cache (`cache_ratio`). From
    there the experts leave whose next use by the batches of the step is farthest (Belady).

    Simplified: any model is taken as if its routers had been replaced; the choices for all layers
    are those of its first layer with experts, as many as its own routers take. New requests do not
    join; what later steps will need is not known to the cache. Assumed: page-locked expert weights.
    """

    for_real = False
    name = "read-me"
    title = "one router names the experts of all layers; batches that share experts"
    paper = "Read-ME, arXiv 2410.19123, section 4, algorithm 1"
    knobs = frozenset({"pinned", "cache_ratio"})
    one_batch = False
    sync_default = False

    def __init__(self, node: Node) -> None:
        self.n_batches = self.n_experts = 0  # of decode so far; experts that a batch takes, summed
        self.held: dict[LayerSpec, tuple[Buffer, ...]] = {}  # where a layer's experts are, or come
        super().__init__(node)

    def make_room(self) -> None:
        node, work, layers = self.node, self.node.work, self.moe_layers
        self.router = Router(work, max((spec.n_experts for spec in layers), default=0))
        node.on_gpu(self.gpu, "router", self.router.weight_bytes)
        self.choices: list[Buffer] = []
        self.router_kv: list[Buffer] = []
        for j, batch in enumerate(node.batches):
            size = max((work.routed_bytes(s, batch.prompt_tokens) for s in layers), default=0)
            self.choices.append(node.on_gpu(self.gpu, f"choices[{j}]", size))
            size = self.router.kv_bytes(node.final_context(j))
            self.router_kv.append(node.on_gpu(self.gpu, f"router KV[{j}]", size))
        tokens = node.widest.prompt_tokens
        self.rooms = [self.places(f"{turn} ", layers, tokens) for turn in range(TURNS)]
        self.cached_rooms = self._cached_rooms()

    def _cached_rooms(self) -> Sequence[Places | CachedPlaces]:
        """The decoder's: the cache stands before the rooms of the two turns."""
        ratio = self.node.policy.cache_ratio
        decoder = [spec for spec in self.moe_layers if spec.stack == "decoder"]
        if not ratio or not decoder:
            return self.rooms
        capacity = experts_in_ratio(ratio, len(decoder), decoder[0].n_experts)
        self.cache_of_experts = cache = ExpertCache(capacity, Belady([]))
        slots = self._places("cache ", decoder, 0)
        return [CachedPlaces(slots, cache, room, decoder) for room in self.rooms]

    def _encoder_places(self, tokens: float) -> Places:
        return self._places("encoder ", [], 0)

    # -- the passes -----------------------------------------------------------------------------

    def prefill(self) -> None:
        work, batches = self.node.work, []
        for batch, ids in zip(self.node.batches, self.route(), strict=True):
            core = partial(work.prefill_core, batch=batch)
            end = work.end_of_prefill(batch)
            tokens, counts = batch.prompt_tokens, self.count(ids)
            batches.append(Batch([batch.index], tokens, counts, core, end))
        self.run(batches)

    def decode_step(self) -> None:
        ids = np.concatenate(self.route())
        needs = [tuple(sorted(row[row != SKIPPED].tolist())) for row in ids]
        groups = batches_by_expert(needs, self.node.policy.mu)
        batches = [self.decode_batch(group, ids) for group in groups]
        self.n_batches += len(batches)
        self.n_experts += sum(int(np.count_nonzero(batch.counts)) for batch in batches)
        self.run(batches)

    def decode_batch(self, members: Sequence[int], ids: NDArray[np.int64]) -> Batch:
        """The sequences `members`, counted over all micro-batches, take one token each."""
        node, work, size = self.node, self.node.work, len(members)
        lengths = [length for batch in node.batches for length in batch.prompt_lengths]
        homes = [batch.index for batch in node.batches for _ in batch.prompt_lengths]
        context = sum(lengths[member] + node.step for member in members)
        core = partial(work.decode_core, sequences=size, context=context)
        where = sorted({homes[member] for member in members})
        return Batch(where, size, self.count(ids[members]), core, work.head(size))

    def count(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each expert."""
        return token_counts(ids, self.router.n_experts)

    def route(self) -> list[NDArray[np.int64]]:
        """Experts of all tokens of the pass: a row for each token, an array per micro-batch."""
        node, blocks = self.node, self.blocks()
        if not blocks:
            return [np.zeros((int(node.tokens(b.index)), 0), np.int64) for b in node.batches]
        tasks = [self.route_one(batch, blocks[0]) for batch in node.batches]
        return [node.issuer.routing(task) for task in tasks]

    def route_one(self, batch: MicroBatch, first: LayerSpec) -> Task:
        """Let the router name the experts of a micro-batch."""
        node, j, work = self.node, batch.index, self.router.route_prompts(batch)
        if node.step:
            work = self.router.route_tokens(batch.size, node.context(j))
        writes = [self.router_kv[j], self.choices[j]]
        return node.issuer.task("route", self.gpu.gpu, [], writes, work, first.index, j)

    # -- a batch --------------------------------------------------------------------------------

    def run(self, batches: Sequence[Batch]) -> None:
        """One batch after the other through all layers."""
        blocks = self.blocks()
        self.announce(batches, blocks)
        self.following = dict(pairwise([None, *blocks, None]))
        for self.micro_batch, self.batch in enumerate(batches):
            if self.micro_batch:
                self.node.issuer.barrier([self.gpu.gpu])
            self.bring(self.following[None])
            for layer in range(len(self.node.layers)):
                self.run_layer(layer)

    def run_layer(self, layer: int) -> None:
        """Begin to copy what the next layer with experts needs, and compute this one."""
        node, batch, spec = self.node, self.batch, self.node.spec(layer)
        if spec.is_moe:
            self.bring(self.following[spec])
        op, caches = "prefill_attention", [self.cache.filled_on_gpus(layer, j) for j in batch.homes]
        if node.step:
            op, caches = "compute_attention", [self.cache.on_gpus(layer, j) for j in batch.homes]
        kv = [block for cache in caches for block in cache[self.gpu]]
        slot = Slot(layer, self.micro_batch)
        self.layer(slot, op, batch.core(spec), kv, batch.tokens, batch.end)

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        work, batch = self.node.work, self.batch
        reads = [*(self.choices[j] for j in batch.homes), *self.held.pop(spec)]
        after = work.join(work.ffn_norm(spec, tokens), after)
        self.run_experts(spec, tokens, batch.counts, reads, after)
        self.room(spec).release(spec, np.flatnonzero(batch.counts).tolist())

    def encoder_moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        self.moe(slot, spec, tokens, after)

    # -- experts --------------------------------------------------------------------------------

    def blocks(self) -> list[LayerSpec]:
        """Layers with experts of this pass."""
        return [spec for spec in self.node.layers if spec.is_moe]

    def room(self, spec: LayerSpec) -> Places | CachedPlaces:
        """Where the experts of a layer come to: the turns take turns."""
        rooms = self.rooms if spec.stack == "encoder" else self.cached_rooms
        return rooms[self.blocks().index(spec) % TURNS]

    def bring(self, spec: LayerSpec | None) -> None:
        """Copy the batch's experts of a layer, if there is one."""
        if spec is not None:
            self.held[spec] = self.load_all(spec, self.batch.counts, self.room(spec))

    def announce(self, batches: Sequence[Batch], blocks: Sequence[LayerSpec]) -> None:
        """Tell the cache which experts the queued batches will need, and when."""
        cache = self.cache_of_experts
        if cache is None or not blocks or blocks[0].stack == "encoder":
            return
        needs = [np.flatnonzero(batch.counts).tolist() for batch in batches]
        cache.policy = Belady(
            [[(block, expert) for expert in need] for need in needs for block in range(len(blocks))]
        )
        for key in cache.slots:
            cache.policy.add(key)

    def facts(self) -> dict[str, float]:
        """Hit rate of the cache, and experts that a batch of decode needs in each layer."""
        mean = self.n_experts / self.n_batches if self.n_batches else 0.0
        return super().facts() | {"experts_per_batch": mean}
