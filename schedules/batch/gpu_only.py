"""GPU-only: everything resident, the baseline that small GPUs cannot run."""

from schedules.activations import Activations, keep_resident
from schedules.cache import KVCache
from schedules.contents import Span
from schedules.node import Node, Slot
from schedules.schedule import Schedule
from schedules.tensor_parallel import at, merge
from schedules.whole_layer import compute_layer, prefill_compute


class GPUOnly(Schedule):
    """All weights and the KV cache on the GPU; no transfers. Infeasible where they do not fit."""

    name = "gpu-only"
    title = "weights and KV cache resident on the GPU"
    paper = "the baseline of MoE-Lightning (arXiv 2411.11217) and Pre-gated MoE (arXiv 2308.12066)"
    multi_gpu = "tensor"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        for g in node.gpus:
            experts = sum(node.work.expert_bytes(spec) for spec in node.all_layers)
            holds = [Span(spec.number, "experts") for spec in node.all_layers]
            node.on_gpu(g, "expert weights", experts, holds)
        keep_resident(node)
        self.x = Activations(node, offload=False)
        self.cache = KVCache(node, gpu_share=1.0)

    def prefill(self) -> None:
        for slot in self.by_micro_batch():
            hidden = at(self.x.hidden, slot.micro_batch)
            filled = self.cache.filled_on_gpus(slot.layer, slot.micro_batch)
            prefill_compute(self.node, slot, hidden, merge(hidden, filled))

    def decode_step(self) -> None:
        for slot in self.by_micro_batch():
            blocks = self.cache.on_gpus(self.node.spec(slot.layer).index, slot.micro_batch)
            compute_layer(self.node, self.x, slot, writes=blocks)

    def by_micro_batch(self) -> list[Slot]:
        """All layers of one micro-batch before the next: only one is in flight."""
        return sorted(self.node.slots(), key=lambda slot: (slot.micro_batch, slot.layer))
