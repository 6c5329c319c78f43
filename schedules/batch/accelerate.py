"""Hugging Face accelerate's CPU offload: weights on demand, module by module."""

from schedules.activations import Activations, reserve_workspace
from schedules.cache import KVCache
from schedules.contents import Part, Span
from schedules.kernels import Kernels
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.schedule import Schedule
from schedules.task import Buffer, Task, Work

PARTS: tuple[Part, ...] = ("attention", "ffn")  # the modules of a layer


class Accelerate(Schedule):
    """Each module's weights are copied before it runs and dropped after; nothing overlaps.

    A copy from pageable memory blocks the issuing thread, and so does the next module's, which
    goes where this one's weights were. All experts of a layer are one module (transformers 5), so
    all of them are copied, chosen or not. Embeddings, head and KV cache stay on the GPU, the batch
    is one. Source: accelerate, `cpu_offload` and `AlignDevicesHook`; transformers 5,
    `modeling_mixtral.py` (`MixtralExperts`).
    """

    name = "accelerate"
    title = "weights copied on demand, module by module, nothing overlaps"
    paper = "Hugging Face accelerate, hooks.py (AlignDevicesHook)"
    kernels = Kernels(experts="loop", logits="all_float32")
    one_batch = True

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        work = node.work
        (self.gpu,) = node.gpus
        node.on_gpu(self.gpu, "embeddings", work.embedding_bytes())
        reserve_workspace(node)
        modules = [size for spec in node.all_layers for size in self.module_bytes(spec)]
        self.module = node.on_gpu(self.gpu, "module weights", max(modules))
        holds = [Span(spec.number, "layer") for spec in node.all_layers]
        self.home = node.on_host("host weights", sum(modules), holds=holds)
        self.x = Activations(node, offload=False).hidden[self.gpu][0]
        self.cache = KVCache(node, gpu_share=1.0)

    def module_bytes(self, spec: LayerSpec) -> tuple[float, float]:
        """Weights of the attention, and of the FFN with its router."""
        work = self.node.work
        attention = work.projection_bytes(spec)
        return attention, work.layer_bytes(spec) - attention

    def prefill(self) -> None:
        node, work, batch = self.node, self.node.work, self.node.batches[0]
        for slot in node.slots():
            spec = node.spec(slot.layer)
            first = work.embedding(batch.prompt_tokens) if node.is_first(slot.layer) else None
            last = work.end_of_prefill(batch) if node.is_last(slot.layer) else None
            attention = work.prefill_core(spec, batch)
            self.run_layer(slot, batch.prompt_tokens, attention, first, last)

    def decode_step(self) -> None:
        node, work, size = self.node, self.node.work, self.node.batches[0].size
        for slot in node.slots():
            spec = node.spec(slot.layer)
            first = work.embedding(size) if node.is_first(slot.layer) else None
            last = work.head(size) if node.is_last(slot.layer) else None
            self.run_layer(slot, size, work.decode_core(spec, size, node.context(0)), first, last)

    def run_layer(
        self, slot: Slot, tokens: float, attention: Work, first: Work | None, last: Work | None
    ) -> None:
        """Copy the attention's weights, run it, copy the FFN's, run it."""
        work, spec = self.node.work, self.node.spec(slot.layer)
        core = work.join(attention, work.out_projection(spec, tokens), first)
        for part, op, size, module in zip(
            PARTS,
            ("compute_attention", "compute_ffn"),
            self.module_bytes(spec),
            (core, work.join(work.ffn(spec, tokens), last)),
            strict=True,
        ):
            self.run_module(slot, op, part, size, module)

    def run_module(self, slot: Slot, op: str, part: Part, weights_bytes: float, work: Work) -> None:
        """Copy, wait, compute, wait."""
        spec, issuer = self.node.spec(slot.layer), self.node.issuer
        copy = self.node.work.copy("h2d_pageable", weights_bytes)
        issuer.wait(self.load(copy, spec, part))
        cached = self.cached(slot) if op == "compute_attention" else []
        writes = [self.x, *cached]
        issuer.wait(issuer.task(op, self.gpu.gpu, [self.module], writes, work, spec.index, 0))

    def load(self, work: Work, spec: LayerSpec, part: Part) -> Task:
        """Fill the module's weights."""
        reads, writes, what = [self.home], [self.module], (Span(spec.number, part),)
        return self.node.issuer.task(
            "load_weights", self.gpu.h2d, reads, writes, work, spec.index, 0, what
        )

    def cached(self, slot: Slot) -> list[Buffer]:
        """The cache blocks that this layer's attention appends to."""
        if self.node.step == 0:
            return self.cache.filled_on_gpus(slot.layer, 0)[self.gpu]
        return self.cache.on_gpu(self.gpu, slot.layer, 0)
