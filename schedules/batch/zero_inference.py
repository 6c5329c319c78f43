"""ZeRO-Inference: all weights streamed layer by layer, everything else on the GPU."""

from schedules.activations import reserve_workspace
from schedules.contents import KVSpan
from schedules.kernels import Kernels
from schedules.node import GpuNames, Node
from schedules.schedule import Schedule
from schedules.streaming import StreamedWeights
from schedules.task import Buffer, Work


class ZeROInference(Schedule):
    """One large batch, its KV cache on the GPU, every layer's weights streamed in every pass.

    The next layer's weights come while this layer computes (one layer of prefetch). Embedding and
    head, 0.6 % of Mixtral's weights, stay on the GPU; ZeRO gathers each when it is called, so the
    head's logits have the embedding's place too. Weights are page-locked when they fit in what can
    be locked. Source: DeepSpeed Inference (arXiv 2207.00032), section 6 (ZeRO-Inference).

    Several GPUs are data-parallel: each has its share of the batch, copies its share of each
    layer's weights from the host, and gets the others' shares over the GPUs' link before it
    computes the whole layer.
    """

    name = "zero-inference"
    title = "weights streamed layer by layer, KV cache on the GPU, one batch"
    paper = "DeepSpeed Inference, arXiv 2207.00032, section 6"
    kernels = Kernels(experts="loop", logits="all_float32")
    knobs = frozenset({"pinned"})
    one_batch = True
    multi_gpu = "data"
    pinned_default = "if_it_fits"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        work, model = node.work, node.model
        self.weights = StreamedWeights(node, "layer", staged=False, shards=len(node.gpus))
        reserve_workspace(node, 0 if model.tied_embeddings else model.embedding_parameters * work.b)
        self.hidden: dict[GpuNames, Buffer] = {}
        self.cache: dict[GpuNames, list[Buffer]] = {}
        for g in node.gpus:
            node.on_gpu(g, "embeddings", work.embedding_bytes())
            self.hidden[g] = node.on_gpu(g, "hidden", work.hidden_bytes(node.batches[g.index].size))
            self.cache[g] = [
                node.on_gpu(
                    g,
                    f"KV[{spec.index},{g.index}]",
                    work.kv_bytes(spec, node.final_context(g.index)),
                    [KVSpan(spec.index, g.index)],
                )
                for spec in model.decoder_layers
            ]

    def prefill(self) -> None:
        self.load(0)
        for layer, spec in enumerate(self.node.layers):
            self.load(layer + 1)
            for g in self.node.each_gpu():
                batch, work = self.node.batches[g.index], self.node.work
                before = work.embedding(batch.prompt_tokens) if layer == 0 else None
                after = work.end_of_prefill(batch) if self.node.is_last(layer) else None
                core = work.prefill_core(spec, batch)
                ffn = work.post_attention(spec, batch.prompt_tokens)
                self.compute("prefill_layer", g, layer, work.join(core, ffn, before, after))

    def decode_step(self) -> None:
        for layer, spec in enumerate(self.node.layers):
            self.load(layer + 1)
            for g in self.node.each_gpu():
                size, work = self.node.batches[g.index].size, self.node.work
                before = work.embedding(size) if layer == 0 else None
                after = work.head(size) if self.node.is_last(layer) else None
                core = work.decode_core(spec, size, self.node.context(g.index))
                ffn = work.post_attention(spec, size)
                self.compute("compute_layer", g, layer, work.join(core, ffn, before, after))

    def load(self, layer: int) -> None:
        """A layer's weights: each GPU copies its share, then ZeRO-3's all-gather assembles it.

        The prefetch bucket is smaller than one expert's matrix, so copy and gather take turns.
        """
        self.weights.load(layer)
        self.weights.gather(layer)

    def compute(self, op: str, gpu: GpuNames, layer: int, work: Work) -> None:
        """One layer for the GPU's share of the batch."""
        writes = [self.hidden[gpu], *self.blocks(gpu, layer)]
        reads = self.weights.resident(gpu, layer)
        spec = self.node.spec(layer)
        self.node.issuer.task(op, gpu.gpu, reads, writes, work, spec.index, gpu.index)

    def blocks(self, gpu: GpuNames, layer: int) -> list[Buffer]:
        """The KV blocks that a layer of this pass appends to."""
        if self.node.layers[layer].stack == "decoder":
            return [self.cache[gpu][layer]]
        return self.cache[gpu] if self.node.is_last(layer) else []
