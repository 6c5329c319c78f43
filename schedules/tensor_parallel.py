"""One layer on all GPUs of a node (Megatron-LM, arXiv 1909.08053, section 3).

Weights, heads and widths are split evenly; an all-reduce of the hidden states follows the output
projection and the FFN. Every GPU has the whole embedding and its share of the output head's rows,
so the logits are gathered.
"""

from collections.abc import Mapping

from schedules.node import GpuNames, Node, Slot
from schedules.task import Buffer, Work

PerGpu = Mapping[GpuNames, list[Buffer]]
"""The buffers that a task touches, on each GPU."""


def at(buffers: Mapping[GpuNames, list[Buffer]], place: int) -> PerGpu:
    """The buffer at one place of each GPU's list."""
    return {gpu: [every[place]] for gpu, every in buffers.items()}


def merge(first: PerGpu, *others: PerGpu) -> PerGpu:
    """All of them together."""
    return {gpu: [*own, *(b for o in others for b in o[gpu])] for gpu, own in first.items()}


def on_every_gpu(
    node: Node, op: str, slot: Slot, reads: PerGpu, writes: PerGpu, work: Work
) -> None:
    """The same task on the compute stream of each GPU."""
    spec = node.spec(slot.layer)
    for g in node.each_gpu():
        node.issuer.task(op, g.gpu, reads[g], writes[g], work, spec.index, slot.micro_batch)


def all_reduce(node: Node, slot: Slot, buffers: PerGpu, tokens: float) -> None:
    """Sum the GPUs' partial hidden states; a ring moves 2 (G - 1) / G of them over each link."""
    n = len(node.gpus)
    size = node.work.hidden_bytes(tokens) * 2 * (n - 1) / n
    every = [buffer for own in buffers.values() for buffer in own]
    work = node.work.copy("peer", size)
    spec = node.spec(slot.layer)
    node.issuer.task("all_reduce", "peer", every, every, work, spec.index, slot.micro_batch)


def output_head(node: Node, slot: Slot, hidden: PerGpu, rows: float) -> None:
    """Each GPU's share of the logits of `rows` positions; then every GPU gets all of them."""
    on_every_gpu(node, "head", slot, hidden, node.logits, node.work.head(rows))
    every = [buffer for own in node.logits.values() for buffer in own]
    n = len(node.gpus)
    size = rows * node.model.vocab_size * node.work.b * (n - 1) / n
    work = node.work.copy("peer", size)
    spec = node.spec(slot.layer)
    node.issuer.task("gather_logits", "peer", every, every, work, spec.index, slot.micro_batch)
