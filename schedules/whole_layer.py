"""Whole layers on the GPU: decode with attention there, and prefill."""

from schedules.activations import Activations
from schedules.cache import KVCache
from schedules.node import Node, Slot
from schedules.streaming import StreamedWeights
from schedules.tensor_parallel import PerGpu, all_reduce, at, merge, on_every_gpu, output_head


def compute_layer(
    node: Node,
    x: Activations,
    slot: Slot,
    reads: PerGpu | None = None,
    writes: PerGpu | None = None,
) -> None:
    """One decode layer, attention included; `reads` and `writes` beside the hidden states."""
    layer, j = slot
    work, size, spec = node.work, node.batches[j].size, node.spec(layer)
    before = work.embedding(size) if node.is_first(layer) else None
    after = work.head(size) if node.is_last(layer) else None
    core = work.decode_core(spec, size, node.context(j))
    hidden = at(x.hidden, j)
    reads = merge(hidden, reads) if reads else hidden
    writes = merge(hidden, writes) if writes else hidden
    if len(node.gpus) == 1:
        whole = work.join(core, work.post_attention(spec, size), before, after)
        on_every_gpu(node, "compute_layer", slot, reads, writes, whole)
        return
    attention = work.join(core, work.out_projection(spec, size), before)
    on_every_gpu(node, "compute_attention", slot, reads, writes, attention)
    all_reduce(node, slot, hidden, size)
    on_every_gpu(node, "compute_ffn", slot, reads, hidden, work.ffn(spec, size))
    all_reduce(node, slot, hidden, size)
    if node.is_last(layer):
        output_head(node, slot, hidden, size)


def prefill_layer(
    node: Node, x: Activations, weights: StreamedWeights, cache: KVCache, slot: Slot
) -> None:
    """One prefill layer of a micro-batch whose hidden states wait in host memory."""
    layer, j = slot
    prompt = at(x.prompt, j % x.depth)
    if not node.is_first(layer):
        move_hidden(node, x, slot, "load_hidden")
    writes = merge(prompt, cache.filled_on_gpus(layer, j))
    if node.is_last(layer):
        writes = merge(writes, at(x.hidden, j))
    prefill_compute(node, slot, merge(prompt, weights.on_gpus(layer)), writes)
    for g in node.each_gpu():
        cache.store_prompt(g, layer, j, prompt[g][0])
    if not node.is_last(layer):
        move_hidden(node, x, slot, "store_hidden")


def move_hidden(node: Node, x: Activations, slot: Slot, op: str) -> None:
    """Prefill's hidden states of a micro-batch to the GPU (`load_hidden`) or back."""
    layer, j = slot
    spec, size = node.spec(layer), node.work.hidden_bytes(node.batches[j].prompt_tokens)
    work = node.work.copy("h2d" if op == "load_hidden" else "d2h", size)
    for g in node.each_gpu():
        here, there = [x.prompt[g][j % x.depth]], [x.prompt_host[g][j]]
        if op == "load_hidden":
            node.issuer.task(op, g.h2d, there, here, work, spec.index, j)
        else:
            node.issuer.task(op, g.d2h, here, there, work, spec.index, j)


def prefill_compute(node: Node, slot: Slot, reads: PerGpu, writes: PerGpu) -> None:
    """The arithmetic of one prefill layer for one micro-batch."""
    layer, j = slot
    work, spec, batch = node.work, node.spec(layer), node.batches[j]
    tokens = batch.prompt_tokens
    before = work.embedding(tokens) if node.is_first(layer) else None
    after = work.end_of_prefill(batch) if node.is_last(layer) else None
    core = work.prefill_core(spec, batch)
    if len(node.gpus) == 1:
        whole = work.join(core, work.post_attention(spec, tokens), before, after)
        on_every_gpu(node, "prefill_layer", slot, reads, writes, whole)
        return
    attention = work.join(core, work.out_projection(spec, tokens), before)
    on_every_gpu(node, "prefill_attention", slot, reads, writes, attention)
    all_reduce(node, slot, writes, tokens)
    cross = after if node.model.is_encoder_decoder else None
    on_every_gpu(node, "prefill_ffn", slot, reads, writes, work.join(work.ffn(spec, tokens), cross))
    all_reduce(node, slot, writes, tokens)
    if node.is_last(layer) and not cross:
        output_head(node, slot, writes, batch.size)
