"""KV blocks that live in host memory and visit the GPU: CGOPipe's order with A_g = 1."""

from schedules.cache import KVCache
from schedules.contents import KVSpan
from schedules.node import GpuNames, Node, Slot
from schedules.task import Buffer
from schedules.tensor_parallel import PerGpu


class KVPrefetch:
    """A ring of `depth` blocks on the GPU: one is computed with, the others are on their way.

    The cache's host part is page-locked if the node's host memory is (or as `pinned` says);
    otherwise each block passes through the driver's staging.
    """

    def __init__(self, node: Node, cache: KVCache, depth: int, pinned: bool | None = None) -> None:
        self.node = node
        self.pinned = node.pinned if pinned is None else pinned
        self.cache = cache
        layers = node.model.decoder_layers
        largest = max(
            node.work.kv_bytes(spec, node.final_context(j)) * (1 - cache.gpu_share)
            for spec in layers
            for j in range(node.n_micro_batches)
        )
        self.ring = {
            g: [node.on_gpu(g, f"KV block[{d}]", largest) for d in range(depth)] for g in node.gpus
        }

    def block(self, gpu: GpuNames, slot: Slot) -> Buffer:
        """The ring's place for this slot."""
        ring = self.ring[gpu]
        return ring[(slot.layer * self.node.n_micro_batches + slot.micro_batch) % len(ring)]

    def load(self, slot: Slot) -> None:
        """Bring the cached keys and values of a slot to the GPU; nothing when all are there."""
        if self.cache.gpu_share == 1:
            return
        node, (layer, j) = self.node, slot
        spec = node.spec(layer)
        past = node.context(j) - node.batches[j].size  # the newest token is not cached yet
        size = node.work.kv_bytes(spec, past) * (1 - self.cache.gpu_share)
        work = node.work.copy(self._link("h2d"), size)
        for g in node.each_gpu():
            source = [self.cache.host[g][spec.index][j]]
            target = [self.block(g, slot)]
            what = (KVSpan(spec.index, j, self.cache.gpu_share),)
            node.issuer.task("load_kv", g.h2d, source, target, work, spec.index, j, what)

    def store(self, slot: Slot) -> None:
        """Append the new keys and values to the host's block."""
        if self.cache.gpu_share == 1:
            return
        node, (layer, j) = self.node, slot
        spec = node.spec(layer)
        size = node.work.kv_bytes(spec, node.batches[j].size) * (1 - self.cache.gpu_share)
        work = node.work.copy(self._link("d2h"), size)
        for g in node.each_gpu():
            target = [self.cache.host[g][spec.index][j]]
            node.issuer.task("store_kv", g.d2h, [self.block(g, slot)], target, work, spec.index, j)

    def blocks(self, slot: Slot) -> PerGpu:
        """What the slot's layer reads and appends to: its block and the GPU's share."""
        index = self.node.spec(slot.layer).index
        return {
            g: [self.block(g, slot), *self.cache.on_gpu(g, index, slot.micro_batch)]
            for g in self.node.gpus
        }

    def _link(self, direction: str) -> str:
        return direction if self.pinned else f"{direction}_pageable"
