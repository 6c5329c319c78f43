"""Decode with attention on the CPU (MoE-Lightning, arXiv 2411.11217, section 4.1).

Each function issues the tasks of one action for one slot, on every GPU of the node.
"""

from schedules.activations import Activations
from schedules.cache import KVCache
from schedules.node import Node, Slot
from schedules.streaming import StreamedWeights
from schedules.tensor_parallel import all_reduce, at, merge, on_every_gpu, output_head


def start_attention(node: Node, x: Activations, cache: KVCache, slot: Slot) -> None:
    """PreAttn, OffloadQKV, CPUAttn."""
    pre_attention(node, x, slot)
    offload_qkv(node, x, slot)
    cpu_attention(node, x, cache, slot)


def pre_attention(node: Node, x: Activations, slot: Slot) -> None:
    """Norm and query, key and value projections; the embedding before the first layer."""
    layer, j = slot
    spec, size = node.spec(layer), node.batches[j].size
    work = node.work.qkv(spec, size)
    if node.is_first(layer):
        work = node.work.join(work, node.work.embedding(size))
    for g in node.each_gpu():
        hidden, writes = x.hidden[g][j], [x.qkv[g][j]]
        if node.is_first(layer):
            writes.append(hidden)  # the embeddings
        node.issuer.task("pre_attention", g.gpu, [hidden], writes, work, spec.index, j)


def offload_qkv(node: Node, x: Activations, slot: Slot) -> None:
    """Queries, keys and values to host memory."""
    layer, j = slot
    spec = node.spec(layer)
    work = node.work.copy("d2h", node.work.qkv_bytes(spec, node.batches[j].size))
    for g in node.each_gpu():
        node.issuer.task(
            "offload_qkv", g.d2h, [x.qkv[g][j]], [x.qkv_host[g][j]], work, spec.index, j
        )


def cpu_attention(node: Node, x: Activations, cache: KVCache, slot: Slot) -> None:
    """The attention core over the cache in host memory; appends the new keys and values."""
    layer, j = slot
    spec = node.spec(layer)
    work = node.work.cpu_attention(spec, node.batches[j].size, node.context(j))
    for g in node.each_gpu():
        reads, writes = [x.qkv_host[g][j]], [cache.host[g][spec.index][j], x.attended_host[g][j]]
        node.issuer.task("cpu_attention", "cpu", reads, writes, work, spec.index, j)


def load_hidden(node: Node, x: Activations, slot: Slot) -> None:
    """The attention's output to the GPU."""
    layer, j = slot
    spec = node.spec(layer)
    work = node.work.copy("h2d", node.work.attended_bytes(spec, node.batches[j].size))
    for g in node.each_gpu():
        node.issuer.task(
            "load_hidden", g.h2d, [x.attended_host[g][j]], [x.attended[g][j]], work, spec.index, j
        )


def post_attention(node: Node, x: Activations, weights: StreamedWeights, slot: Slot) -> None:
    """Output projection, router and experts; the output head after the last layer."""
    layer, j = slot
    spec, size, work = node.spec(layer), node.batches[j].size, node.work
    head = work.head(size) if node.is_last(layer) else None
    attended, hidden = at(x.attended, j), at(x.hidden, j)
    reads = merge(attended, weights.on_gpus(layer))
    if len(node.gpus) == 1:
        both = work.join(work.post_attention(spec, size), head)
        on_every_gpu(node, "post_attention", slot, reads, hidden, both)
        return
    on_every_gpu(node, "out_projection", slot, attended, hidden, work.out_projection(spec, size))
    all_reduce(node, slot, hidden, size)
    on_every_gpu(node, "ffn", slot, reads, hidden, work.ffn(spec, size))
    all_reduce(node, slot, hidden, size)
    if node.is_last(layer):
        output_head(node, slot, hidden, size)
