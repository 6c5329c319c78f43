"""On-demand: experts stay in host memory until a gate names them."""

import numpy as np

from schedules.activations import Activations, keep_resident
from schedules.cache import KVCache
from schedules.contents import Span
from schedules.kernels import Kernels
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.schedule import Schedule
from schedules.task import Buffer, Task, Work


class OnDemand(Schedule):
    """Gate, wait, copy the activated experts, run them (MoE-OnDemand).

    The issuing thread reads back the expert ids of each gate, so nothing is issued meanwhile, and
    copies and computation take turns. All but the experts is resident; the GPU has room for as many
    experts as one layer can activate. Each layer's experts replace those of the layer before: no
    expert is kept. Source: Pre-gated MoE (arXiv 2308.12066), sections 3 and 5 (MoE-OnDemand).
    """

    name = "on-demand"
    title = "experts copied when the gate has named them, nothing overlaps"
    paper = "Pre-gated MoE, arXiv 2308.12066, sections 3 and 5 (MoE-OnDemand)"
    kernels = Kernels(experts="loop")
    knobs = frozenset({"pinned"})
    one_batch = True
    steps_alike = False
    pinned_default = "if_it_fits"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        (self.gpu,) = node.gpus
        work, layers = node.work, node.all_layers
        moe = [spec for spec in layers if spec.is_moe]
        dense = [spec for spec in layers if not spec.is_moe]
        keep_resident(node)
        size = sum(work.expert_bytes(spec) for spec in dense)
        node.on_gpu(self.gpu, "dense FFNs", size, [Span(spec.index, "experts") for spec in dense])
        self.home = {
            spec: node.on_host(
                f"host weights[{spec.stack} {spec.index}]",
                work.expert_bytes(spec),
                node.pinned,
                [Span(spec.index, "experts")],
            )
            for spec in moe
        }
        tokens, size = node.widest.prompt_tokens, max(map(self.expert_bytes, moe), default=0.0)
        room = max((min(spec.n_experts, tokens * spec.top_k) for spec in moe), default=0)
        self.experts = [node.on_gpu(self.gpu, f"experts[{i}]", size) for i in range(room)]
        self.x = Activations(node, offload=False).hidden[self.gpu][0]
        most = max((work.routed_bytes(spec, tokens) for spec in moe), default=0.0)
        self.routed = node.on_gpu(self.gpu, "routed", most)
        self.cache = KVCache(node, gpu_share=1.0)

    def expert_bytes(self, spec: LayerSpec) -> float:
        """Weights of one expert."""
        return self.node.work.expert_bytes(spec) / spec.n_experts

    def prefill(self) -> None:
        work, batch = self.node.work, self.node.batches[0]
        for slot in self.node.slots():
            core = work.prefill_core(self.node.spec(slot.layer), batch)
            blocks = self.cache.filled_on_gpus(slot.layer, 0)[self.gpu]
            end = work.end_of_prefill(batch)
            self.layer(slot, "prefill_attention", core, blocks, batch.prompt_tokens, end)

    def decode_step(self) -> None:
        node, work, size = self.node, self.node.work, self.node.batches[0].size
        for slot in node.slots():
            spec = node.spec(slot.layer)
            core = work.decode_core(spec, size, node.context(0))
            blocks = self.cache.on_gpu(self.gpu, spec.index, 0)
            self.layer(slot, "compute_attention", core, blocks, size, work.head(size))

    def layer(
        self, slot: Slot, op: str, core: Work, blocks: list[Buffer], tokens: int, end: Work
    ) -> None:
        """Attention, then the dense FFN, or gate, wait, copies, experts."""
        node, work, spec = self.node, self.node.work, self.node.spec(slot.layer)
        before = work.embedding(tokens) if node.is_first(slot.layer) else None
        after = end if node.is_last(slot.layer) else None
        attention = work.join(core, work.out_projection(spec, tokens), before)
        self.compute(op, spec, [self.x], [self.x, *blocks], attention)
        if not spec.is_moe:
            ffn = work.join(work.ffn(spec, tokens), after)
            self.compute("compute_ffn", spec, [self.x], [self.x], ffn)
            return
        gate = self.compute("gate", spec, [self.x], [self.routed], work.gate(spec, tokens))
        counts = np.bincount(node.issuer.routing(gate).ravel(), minlength=spec.n_experts)
        chosen = np.flatnonzero(counts).tolist()
        for place, expert in enumerate(chosen):
            self.load(spec, expert, self.experts[place])
        reads = [self.x, self.routed, *self.experts[: len(chosen)]]
        routed = work.routed_experts(spec, tokens, tuple(counts[chosen].tolist()))
        self.compute("experts", spec, reads, [self.x], work.join(routed, after))

    def load(self, spec: LayerSpec, expert: int, place: Buffer) -> None:
        """Copy one expert to its place on the GPU."""
        link = "h2d" if self.node.pinned else "h2d_pageable"
        self.node.issuer.task(
            "load_expert",
            self.gpu.h2d,
            [self.home[spec]],
            [place],
            self.node.work.copy(link, self.expert_bytes(spec)),
            spec.index,
            0,
            (Span(spec.index, "expert", expert=expert),),
        )

    def compute(
        self, op: str, spec: LayerSpec, reads: list[Buffer], writes: list[Buffer], work: Work
    ) -> Task:
        """A computation on the GPU."""
        return self.node.issuer.task(op, self.gpu.gpu, reads, writes, work, spec.index, 0)
