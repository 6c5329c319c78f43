"""What all schedules share that leave experts in host memory and bring those that are needed."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np

from schedules.activations import Activations, keep_resident
from schedules.cache import KVCache
from schedules.choices import Ids, token_counts
from schedules.contents import Contents, Span
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_counts import experts_in_ratio
from schedules.expert.cache_named import cache_policy
from schedules.expert.places import CachedPlaces, Places
from schedules.kernels import Kernels
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.schedule import Schedule
from schedules.synchronise import synchronise
from schedules.task import Buffer, Task, Work


class MovesExperts(Schedule):
    """One GPU, one batch; all but the routed experts is resident, KV cache included.

    A schedule says in `moe` how a layer with experts goes on after its attention. In an
    encoder-decoder model the encoder's experts come when their gate has named them, in all
    schedules: no system prefetches there.
    """

    kernels = Kernels(experts="loop")
    knobs = frozenset({"pinned", "sync"})
    one_batch = True
    steps_alike = False
    pinned_default: ClassVar[Literal["never", "if_it_fits"]] = "if_it_fits"
    sync_default: ClassVar[bool] = True
    host_pieces: ClassVar[Literal["expert", "span"]] = "expert"
    micro_batch = 0  # that runs now

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        (self.gpu,) = node.gpus
        sync = node.policy.sync
        self.syncs = self.sync_default if sync is None else sync
        work, layers = node.work, node.all_layers
        self.moe_layers = [spec for spec in layers if spec.is_moe]
        dense = [spec for spec in layers if not spec.is_moe]
        keep_resident(node)
        size = sum(work.expert_bytes(spec) for spec in dense)
        node.on_gpu(self.gpu, "dense FFNs", size, [Span(spec.number, "experts") for spec in dense])
        self.home = {spec: self.home_of(spec) for spec in self.moe_layers}
        tokens = node.widest.prompt_tokens
        self.hidden = Activations(node, offload=False).hidden[self.gpu]
        self.x = self.hidden[0]
        self.cache = KVCache(node, gpu_share=1.0)
        self.routed = self.routed_buffer("routed")
        self.last_copy: Task | None = None  # of experts, in this pass
        self.cache_of_experts: ExpertCache | None = None
        self.encoder_places = self._encoder_places(tokens)
        self.make_room()

    # -- what differs ---------------------------------------------------------------------------

    def home_of(self, spec: LayerSpec) -> Buffer:
        """Where the experts of a layer lie for good."""
        return self.node.on_host(
            f"host weights[{spec.stack} {spec.index}]",
            self.node.work.expert_bytes(spec),
            self.node.pinned,
            [Span(spec.number, "experts")],
        )

    @abstractmethod
    def make_room(self) -> None:
        """Take the memory of the experts on the GPU."""

    @abstractmethod
    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        """The FFN of a decoder layer with experts, and `after` it the output head, if any."""

    def begin_pass(self) -> None:
        """What comes before the first layer of a pass over the decoder."""

    def run_prefill(self) -> None:
        self.last_copy = None  # the pass before has ended
        super().run_prefill()

    def run_decode_step(self, step: int) -> None:
        self.last_copy = None
        super().run_decode_step(step)

    # -- the passes -----------------------------------------------------------------------------

    def prefill(self) -> None:
        if not self.node.model.is_encoder_decoder:
            self.begin_pass()
        for slot in self.node.slots():
            self.prefill_layer(slot)

    def decode_step(self) -> None:
        self.begin_pass()
        for slot in self.node.slots():
            self.decode_layer(slot)

    def prefill_layer(self, slot: Slot) -> None:
        """A layer of the pass over the prompts."""
        node, work, batch = self.node, self.node.work, self.node.batches[slot.micro_batch]
        core = work.prefill_core(node.spec(slot.layer), batch)
        blocks = self.cache.filled_on_gpus(*slot)[self.gpu]
        end = work.end_of_prefill(batch)
        self.layer(slot, "prefill_attention", core, blocks, batch.prompt_tokens, end)

    def decode_layer(self, slot: Slot) -> None:
        """A layer of a decode step."""
        node, work, j = self.node, self.node.work, slot.micro_batch
        spec, size = node.spec(slot.layer), node.batches[j].size
        core = work.decode_core(spec, size, node.context(j))
        blocks = self.cache.on_gpu(self.gpu, spec.index, j)
        self.layer(slot, "compute_attention", core, blocks, size, work.head(size))

    def layer(
        self, slot: Slot, op: str, core: Work, blocks: list[Buffer], tokens: float, end: Work
    ) -> None:
        """Attention, then the dense FFN, or that of the experts."""
        node, work, spec = self.node, self.node.work, self.node.spec(slot.layer)
        before = work.embedding(tokens) if node.is_first(slot.layer) else None
        after = end if node.is_last(slot.layer) else None
        attention = work.join(core, work.out_projection(spec, tokens), before)
        self.compute(op, spec, [self.x], [self.x, *blocks], attention)
        if not spec.is_moe:
            ffn = work.join(work.ffn(spec, tokens), after)
            done = self.compute("compute_ffn", spec, [self.x], [self.x], ffn)
            if self.syncs:
                node.issuer.wait(done)
            return
        if spec.stack == "encoder":
            self.encoder_moe(slot, spec, tokens, after)
        else:
            self.moe(slot, spec, tokens, after)
        if self.syncs:
            synchronise(node, self.gpu, self.x, spec)

    def encoder_moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        """The FFN of an encoder layer with experts."""
        self.when_named(spec, tokens, after, self.encoder_places)

    # -- what an FFN with experts is made of ----------------------------------------------------

    def when_named(
        self, spec: LayerSpec, tokens: float, after: Work | None, places: Places | CachedPlaces
    ) -> None:
        """Gate, wait, copies, experts: nothing overlaps."""
        counts = self.named(spec, tokens, self.routed)
        held = self.load_all(spec, counts, places)
        self.run_experts(spec, tokens, counts, [self.routed, *held], after)
        places.release(spec, np.flatnonzero(counts).tolist())

    def named(self, spec: LayerSpec, tokens: float, routed: Buffer, op: str = "gate") -> Ids:
        """How many tokens go to each expert of a layer; see `named_ids`."""
        return token_counts(self.named_ids(spec, tokens, routed, op), spec.n_experts)

    def named_ids(self, spec: LayerSpec, tokens: float, routed: Buffer, op: str = "gate") -> Ids:
        """Let a gate name experts of a layer, and read back each token's, shape (tokens, top_k).

        In the authors' system that is a blocking copy on CUDA's default stream, which waits for the
        copies of experts too.
        """
        issuer = self.node.issuer
        gate = self.compute(op, spec, [self.x], [routed], self.node.work.gate(spec, tokens))
        ids = issuer.routing(gate)
        if self.syncs:
            if self.last_copy is not None:
                issuer.wait(self.last_copy)
            synchronise(self.node, self.gpu, routed, spec)
        return ids

    def asked(self, spec: LayerSpec, tokens: float) -> Ids | None:
        """`named` where all experts will be there: the ideal form does not ask (None)."""
        return self.named(spec, tokens, self.routed) if self.syncs else None

    def in_place(
        self,
        spec: LayerSpec,
        tokens: float,
        counts: Ids | None,
        reads: Sequence[Buffer],
        after: Work | None,
    ) -> None:
        """The FFN of a layer all of whose experts are on the GPU, in `reads` or for good."""
        if counts is not None:
            self.run_experts(spec, tokens, counts, [self.routed, *reads], after)
            return
        ffn = self.node.work.join(self.node.work.ffn(spec, tokens), after)
        self.compute("compute_ffn", spec, [self.x, *reads], [self.x], ffn)

    def run_experts(
        self,
        spec: LayerSpec,
        tokens: float,
        counts: Ids,
        reads: Sequence[Buffer],
        after: Work | None,
    ) -> None:
        """Compute the experts that were named, which `reads` (choices and weights) hold."""
        chosen = np.flatnonzero(counts)
        routed = self.node.work.routed_experts(spec, tokens, tuple(counts[chosen].tolist()))
        work = self.node.work.join(routed, after)
        self.compute("experts", spec, [self.x, *reads], [self.x], work)

    def load_all(
        self, spec: LayerSpec, counts: Ids, places: Places | CachedPlaces
    ) -> tuple[Buffer, ...]:
        """Copy the experts that were named and are not there; returns where all of them are."""
        assigned = places.assign(spec, np.flatnonzero(counts).tolist())
        for expert, place in assigned.loads:
            self.load(spec, expert, place)
        return assigned.held

    def load(self, spec: LayerSpec, expert: int, place: Buffer) -> None:
        """Copy one expert to its place on the GPU."""
        size, what = self.expert_bytes(spec), Span(spec.number, "expert", expert=expert)
        self.copy("load_expert", spec, place, size, what)

    def copy(
        self,
        op: str,
        spec: LayerSpec,
        place: Buffer,
        size_bytes: float,
        what: Contents,
        home: Buffer | None = None,
    ) -> None:
        """Copy experts of a layer to the GPU, from `home` if they lie elsewhere too."""
        source = home or self.home[spec]
        work = self.node.work.copy("h2d" if source.pinned else "h2d_pageable", size_bytes)
        where = spec.index, self.micro_batch
        self.last_copy = self.node.issuer.task(
            op, self.gpu.h2d, [source], [place], work, *where, (what,)
        )

    def compute(
        self, op: str, spec: LayerSpec, reads: list[Buffer], writes: list[Buffer], work: Work
    ) -> Task:
        """A computation on the GPU."""
        return self.node.issuer.task(
            op, self.gpu.gpu, reads, writes, work, spec.index, self.micro_batch
        )

    # -- sizes ----------------------------------------------------------------------------------

    @property
    def most_tokens(self) -> float:
        """Tokens that a decoder layer takes at most: the prompts', where there is no encoder."""
        batch = self.node.batches[0]
        return batch.size if self.node.model.is_encoder_decoder else batch.prompt_tokens

    def expert_bytes(self, spec: LayerSpec) -> float:
        """Weights of one expert."""
        return self.node.work.expert_bytes(spec) / spec.n_experts

    def places(self, tag: str, layers: Iterable[LayerSpec], tokens: float) -> Places:
        """Room on the GPU for as many experts as so many tokens can take in one of the layers."""
        moe = [spec for spec in layers if spec.is_moe]
        count = max((int(min(s.n_experts, tokens * s.top_k)) for s in moe), default=0)
        return self._places(tag, moe, count)

    def cached(self, others: Sequence[Places]) -> Sequence[Places | CachedPlaces]:
        """The decoder's expert cache, if the policy asks for one, in front of `others`."""
        policy, blocks = self.node.policy, [s for s in self.moe_layers if s.stack == "decoder"]
        if not policy.cache_ratio or not blocks:
            return others
        n_experts = blocks[0].n_experts
        capacity = experts_in_ratio(policy.cache_ratio, len(blocks), n_experts)
        rule = cache_policy(policy.cache, n_layers=len(blocks), n_experts=n_experts)
        self.cache_of_experts = ExpertCache(capacity, rule)
        slots = self._places("cache ", blocks, 0)
        return [CachedPlaces(slots, self.cache_of_experts, places, blocks) for places in others]

    def facts(self) -> dict[str, float]:
        """What the schedule itself knows of its run: the hit rate of its cache, if it has one."""
        cache = self.cache_of_experts
        return {} if cache is None else {"hit_rate": cache.counts.hit_rate}

    def _encoder_places(self, tokens: float) -> Places:
        """Room for as many as an encoder layer is expected to take; more is made when needed."""
        moe = [spec for spec in self.node.model.encoder_layers if spec.is_moe]
        expected = self.node.work.routing.expected_distinct
        counts = [
            int(np.ceil(expected(tokens, s.n_experts, s.top_k, s.stack, s.index, s.kept)))
            for s in moe
        ]
        return self._places("encoder ", moe, max(counts, default=0))

    def _places(self, tag: str, layers: Sequence[LayerSpec], count: int) -> Places:
        size = max(map(self.expert_bytes, layers), default=0.0)
        return Places(self.node, self.gpu, tag, size, count)

    def routed_buffer(self, name: str) -> Buffer:
        """Room for expert ids and their weights."""
        work, tokens = self.node.work, self.node.widest.prompt_tokens
        size = max((work.routed_bytes(s, tokens) for s in self.moe_layers), default=0.0)
        return self.node.on_gpu(self.gpu, name, size)
