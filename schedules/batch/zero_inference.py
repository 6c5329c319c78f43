"""ZeRO-Inference: all weights streamed layer by layer, everything else on the GPU."""

from schedules.activations import Activations, reserve_workspace
from schedules.cache import KVCache
from schedules.layer import Kernels
from schedules.node import Node
from schedules.schedule import Schedule
from schedules.streaming import StreamedWeights
from schedules.tensor_parallel import at, merge
from schedules.whole_layer import compute_layer, prefill_compute


class ZeROInference(Schedule):
    """One large batch, its KV cache on the GPU, every layer's weights streamed in every pass.

    The next layer's weights come while this layer computes (one layer of prefetch). Embeddings and
    head stay on the GPU. Weights are page-locked when they fit in what can be locked. Source:
    DeepSpeed Inference (arXiv 2207.00032), section 6 (ZeRO-Inference).
    """

    name = "zero-inference"
    title = "weights streamed layer by layer, KV cache on the GPU, one batch"
    paper = "DeepSpeed Inference, arXiv 2207.00032, section 6"
    kernels = Kernels(experts="loop", logits="all")
    knobs = frozenset({"pinned"})
    one_batch = True
    pinned_default = "if_it_fits"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        work = node.work
        for g in node.gpus:
            node.on_gpu(g, "embeddings", work.embedding_bytes())
        reserve_workspace(node)
        self.x = Activations(node, offload=False)
        self.weights = StreamedWeights(node, work.layer_bytes, staged=False)
        self.cache = KVCache(node, gpu_share=1.0)

    def prefill(self) -> None:
        self.weights.load(0)
        for slot in self.node.slots():
            self.weights.load(slot.layer + 1)
            weights = self.weights.on_gpus(slot.layer)
            filled = self.cache.filled_on_gpus(slot.layer, 0)
            prefill_compute(self.node, slot, weights, merge(at(self.x.hidden, 0), filled))

    def decode_step(self) -> None:
        for slot in self.node.slots():
            self.weights.load(slot.layer + 1)
            weights = self.weights.on_gpus(slot.layer)
            blocks = self.cache.on_gpus(self.node.spec(slot.layer).index, 0)
            compute_layer(self.node, self.x, slot, reads=weights, writes=blocks)
