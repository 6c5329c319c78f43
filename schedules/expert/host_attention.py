"""Attention of micro-batches whose KV cache is in host memory: it travels, or the CPU attends."""

from collections.abc import Sequence

from schedules.actions import start_attention
from schedules.batch.kv_prefetch import KVPrefetch
from schedules.cache import KVCache
from schedules.expert.token_pool import TokenPool
from schedules.node import Node, Slot
from schedules.task import Buffer, Work

DEPTH = 2  # micro-batches whose new keys and values the GPU holds, and which are fetched ahead


class HostAttention:
    """The attention part of each layer, on one GPU or, in decode, on the CPU.

    Prompts attend on the GPU and their keys and values go to host memory. In decode each
    micro-batch's cache comes to the GPU, `DEPTH` micro-batches ahead, and its new keys and values
    go back; or queries, keys and values go to the CPU, and its results come back.

    Parameters
    ----------
    x: hidden states; room for what the CPU's attention takes and gives, where it is used.
    on_cpu: whether the CPU attends in decode.
    pinned: whether a cache that travels lies in page-locked memory.
    """

    def __init__(self, node: Node, x: TokenPool, on_cpu: bool, pinned: bool) -> None:
        self.node, self.x, self.on_cpu = node, x, on_cpu
        self.gpu = x.gpu
        self.link = "d2h" if pinned or on_cpu else "d2h_pageable"
        self.cache = KVCache(node, 0.0, moves=pinned and not on_cpu)
        self.ahead = min(DEPTH, node.n_micro_batches)
        if not on_cpu:
            self.fetched = KVPrefetch(node, self.cache, self.ahead + 1, pinned)
        made = max(
            self.cache.prompt_bytes(self.cache.filled_by(layer), node.widest.index)
            for layer in range(len(node.prefill_layers))
        )
        self.new_kv = [node.on_gpu(self.gpu, f"new KV[{d}]", made) for d in range(self.ahead)]

    def begin_step(self) -> None:
        """Before a decode step: the first micro-batches' cache."""
        if not self.on_cpu:
            for slot in self.node.slots(self.ahead):
                self.fetched.load(slot)

    def prefill(self, slot: Slot) -> None:
        """A micro-batch's prompts."""
        node, work, (layer, j) = self.node, self.node.work, slot
        spec, batch = node.spec(layer), node.batches[j]
        out = work.out_projection(spec, batch.prompt_tokens)
        whole = work.join(work.prefill_core(spec, batch), out, self._before(slot))
        made = [] if node.model.is_encoder_decoder else [self.new(slot)]
        self._compute("prefill_attention", slot, [self.x.at(j)], [self.x.at(j), *made], whole)
        if made:
            self.store_prompt(slot)

    def decode(self, slot: Slot) -> None:
        """A micro-batch's next tokens on the GPU, and the fetch of a later one's cache."""
        node, work, (layer, j) = self.node, self.node.work, slot
        spec, size = node.spec(layer), node.batches[j].size
        core = work.decode_core(spec, size, node.context(j))
        whole = work.join(core, work.out_projection(spec, size), self._before(slot))
        touched = [self.x.at(j), *self.fetched.blocks(slot)[self.gpu]]
        self._compute("compute_attention", slot, touched, touched, whole)
        self.fetched.store(slot)
        if later := node.after(slot, self.ahead):
            self.fetched.load(later)

    def start_on_cpu(self, slot: Slot) -> None:
        """Projections, their way to the CPU, and its attention."""
        start_attention(self.node, self.x, self.cache, slot)

    def finish_on_cpu(self, slot: Slot) -> None:
        """What the CPU has made, and the output projection."""
        node, work, x, (layer, j) = self.node, self.node.work, self.x, slot
        spec, size = node.spec(layer), node.batches[j].size
        there, here = x.attended_host[self.gpu][j], x.attended[self.gpu][j]
        copy = work.copy("h2d", work.attended_bytes(spec, size))
        node.issuer.task("load_attended", self.gpu.h2d, [there], [here], copy, spec.index, j)
        out = work.out_projection(spec, size)
        self._compute("out_projection", slot, [here, x.at(j)], [x.at(j)], out)

    def store_prompt(self, slot: Slot) -> None:
        """Keys and values of prompts to host memory, from where a layer has left them (`new`)."""
        layer, j = slot
        self.cache.store_prompt(self.gpu, layer, j, self.new(slot), self.link)

    def new(self, slot: Slot) -> Buffer:
        """Where a prefill layer leaves the keys and values of prompts."""
        return self.new_kv[slot.micro_batch % self.ahead]

    def _before(self, slot: Slot) -> Work | None:
        if not self.node.is_first(slot.layer):
            return None
        return self.node.work.embedding(self.node.tokens(slot.micro_batch))

    def _compute(
        self, op: str, slot: Slot, reads: Sequence[Buffer], writes: Sequence[Buffer], work: Work
    ) -> None:
        spec = self.node.spec(slot.layer)
        gpu = self.gpu.gpu
        self.node.issuer.task(op, gpu, reads, writes, work, spec.index, slot.micro_batch)
