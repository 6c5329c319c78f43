"""CGOPipe: the CPU-GPU-I/O pipeline with paged weights of MoE-Lightning."""

from schedules.actions import load_hidden, post_attention, start_attention
from schedules.activations import Activations, keep_resident
from schedules.batch.kv_prefetch import KVPrefetch
from schedules.cache import KVCache
from schedules.errors import BadInput
from schedules.kernels import Kernels
from schedules.node import Node, Slot
from schedules.policy import Policy
from schedules.schedule import Schedule
from schedules.streaming import StreamedWeights
from schedules.tensor_parallel import merge
from schedules.whole_layer import compute_layer, prefill_layer


class CGOPipe(Schedule):
    """CPU-GPU-I/O pipeline with paged weights (MoE-Lightning, arXiv 2411.11217, algorithm 1).

    Attention weights stay on the GPU; a share r_w of the experts does too, the rest of the next
    layer comes in as many pages as there are micro-batches, one between two transfers of hidden
    states. CPU attention runs `lookahead` micro-batches ahead of the GPU. The pages pass through
    one layer of pinned staging. With A_g = 1 the KV cache travels in place of the hidden
    states, prefetched equally far ahead.
    """

    name = "cgopipe"
    title = "CPU attention, weights in pages between the hidden states"
    paper = "MoE-Lightning, arXiv 2411.11217, section 4.1, algorithm 1"
    kernels = Kernels(experts="fused", cpu_attention="native")
    knobs = frozenset({"A_g", "r_w", "r_c", "pinned"})
    multi_gpu = "tensor"
    lookahead = 2  # micro-batches that CPU attention runs ahead of the GPU

    @classmethod
    def check(cls, policy: Policy, n_gpus: int = 1) -> None:
        super().check(policy, n_gpus)
        if policy.r_c and not policy.A_g:
            raise BadInput(
                f"schedule '{cls.name}' with CPU attention (A_g = 0) keeps the KV cache in host "
                f"memory: r_c = {policy.r_c} needs A_g = 1"
            )
        if policy.A_g and n_gpus > 1:
            raise BadInput(
                f"schedule '{cls.name}' prefetches KV (A_g = 1) on one GPU, not {n_gpus}"
            )

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        keep_resident(node)
        kept, pages = node.policy.r_w, node.n_micro_batches
        self.ahead = min(self.lookahead, node.n_micro_batches)
        self.x = Activations(node)
        self.weights = StreamedWeights(node, "experts", kept, pages)
        self.cache = KVCache(node, node.policy.r_c, moves=bool(node.policy.A_g))
        if node.policy.A_g:
            self.prefetch = KVPrefetch(node, self.cache, self.ahead + 1)

    def prefill(self) -> None:
        self.weights.load(0, direct=True)
        for slot in self.node.slots():
            prefill_layer(self.node, self.x, self.weights, self.cache, slot)
            if slot.micro_batch == self.node.n_micro_batches - 1:
                self.weights.load(slot.layer + 1, direct=True)  # unpaged

    def decode_step(self) -> None:
        for slot in self.node.slots(self.ahead):  # prologue: fill the pipeline
            self.start(slot)
            self.pin(slot)
        for slot in self.node.slots():
            self.load(slot)
            self.load_weights(slot)
            self.compute(slot)
            if later := self.node.after(slot, self.ahead):  # drains at the end of the step
                self.start(later)
                self.pin(later)

    def pin(self, slot: Slot) -> None:
        """CtoPin: the slot's page of the next layer, into pinned staging."""
        self.weights.pin(slot.layer + 1, page=slot.micro_batch)

    def load_weights(self, slot: Slot) -> None:
        """PinToGPU: the slot's page of the next layer."""
        self.weights.load(slot.layer + 1, page=slot.micro_batch)

    def start(self, slot: Slot) -> None:
        """PreAttn, OffloadQKV, CPUAttn; or the prefetch of the KV cache."""
        if self.node.policy.A_g:
            self.prefetch.load(slot)
        else:
            start_attention(self.node, self.x, self.cache, slot)

    def load(self, slot: Slot) -> None:
        """LoadHidden; nothing when the attention runs on the GPU."""
        if not self.node.policy.A_g:
            load_hidden(self.node, self.x, slot)

    def compute(self, slot: Slot) -> None:
        """PostAttn; or the whole layer, and the store of its new keys and values."""
        if self.node.policy.A_g:
            blocks = self.prefetch.blocks(slot)
            reads = merge(blocks, self.weights.on_gpus(slot.layer))
            compute_layer(self.node, self.x, slot, reads, blocks)
            self.prefetch.store(slot)
        else:
            post_attention(self.node, self.x, self.weights, slot)
