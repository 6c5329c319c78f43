"""One stage of a pipeline whose weights are resident: its layers, its memory, its link."""

from collections.abc import Sequence

from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer, Work

RING = 3  # prompts' hidden states on a GPU: those that arrive, are computed with, and leave
TOKEN_BYTES = 8  # of a token's number


class PipelineStage:
    """A contiguous part of the layers on one GPU, and the network link to the next stage.

    Every stage sends to one other and receives from one, so each pair has a link of its own. A
    message runs over the link `peer` of the hardware on the sender's stream `d2h`, which nothing
    else uses: the stream `peer` is one for the whole node, and would let messages of different
    pairs wait for each other.
    """

    def __init__(self, node: Node, gpu: GpuNames) -> None:
        n = len(node.gpus)
        self.node = node
        self.gpu = gpu
        self.is_first = gpu.index == 0
        self.is_last = gpu.index == n - 1
        self.prefill_layers = _share(node.prefill_layers, gpu.index, n)
        self.decode_layers = _share(node.model.decoder_layers, gpu.index, n)
        self._take_weights()
        self._take_activations()
        self.cache = {
            (spec.index, j): node.on_gpu(
                gpu, f"KV[{spec.index},{j}]", node.work.kv_bytes(spec, node.final_context(j))
            )
            for spec in self.decode_layers
            for j in range(node.n_micro_batches)
        }

    # -- memory ---------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """All layers that the stage ever runs."""
        encoder = self.prefill_layers if self.node.model.is_encoder_decoder else ()
        return (*encoder, *self.decode_layers)

    @property
    def weight_bytes(self) -> float:
        """Its layers; the embedding on the first stage, the head on the last."""
        model, b = self.node.model, self.node.work.b
        size = sum(map(self.node.work.layer_bytes, self.layers))
        if self.is_first and self.is_last:
            return size + self.node.work.embedding_bytes()
        if self.is_first:
            return size + model.embedding_parameters * b
        head = model.head_parameters + model.tied_embeddings * model.head_matrix_parameters
        return size + head * b * self.is_last

    def _take_weights(self) -> None:
        self.node.on_gpu(self.gpu, "weights", self.weight_bytes)

    def _take_activations(self) -> None:
        node, work, widest = self.node, self.node.work, self.node.widest.prompt_tokens
        space = max(work.layer_workspace_bytes(spec, widest) for spec in self.layers)
        if self.is_last:
            space = max(space, work.head_workspace_bytes(widest, node.most_sequences))
        node.on_gpu(self.gpu, "workspace", space)
        places = range(min(RING, node.n_micro_batches))
        size = work.hidden_bytes(widest)
        self.prompts = [node.on_gpu(self.gpu, f"prompt hidden[{i}]", size) for i in places]
        sizes = [batch.size for batch in node.batches]
        self.hidden = [
            node.on_gpu(self.gpu, f"hidden[{j}]", work.hidden_bytes(size))
            for j, size in enumerate(sizes)
        ]
        ends = self.is_first or self.is_last
        self.tokens = [
            node.on_gpu(self.gpu, f"tokens[{j}]", TOKEN_BYTES * size)
            for j, size in enumerate(sizes if ends else [])
        ]

    def prompt(self, micro_batch: int) -> Buffer:
        """Where the hidden states of a micro-batch's prompts are."""
        return self.prompts[micro_batch % len(self.prompts)]

    # -- computation ----------------------------------------------------------------------------

    def prefill(self, micro_batch: int) -> None:
        """A micro-batch's prompts through the stage's layers; at the end, the first tokens."""
        node, work, batch = self.node, self.node.work, self.node.batches[micro_batch]
        for spec in self.prefill_layers:
            core = work.prefill_core(spec, batch)
            layer = work.join(core, work.post_attention(spec, batch.prompt_tokens))
            cache = [] if node.model.is_encoder_decoder else [self.cache[spec.index, micro_batch]]
            before = work.embedding(batch.prompt_tokens) if self._begins(spec) else None
            after = None
            if self._ends(spec) and not node.model.is_encoder_decoder:
                after = work.end_of_prefill(batch)
                cache.append(self.tokens[micro_batch])
            whole = work.join(layer, before, after)
            self._compute(
                "prefill_layer", spec, micro_batch, self.prompt(micro_batch), cache, whole
            )

    def cross_attention(self, micro_batch: int) -> None:
        """Keys and values of the stage's decoder layers, from the encoder's output."""
        node, batch, layers = self.node, self.node.batches[micro_batch], self.decode_layers
        share = len(layers) / len(node.model.decoder_layers)
        work = _part(node.work.cross_keys(batch.prompt_tokens), share)
        cache = [self.cache[spec.index, micro_batch] for spec in layers]
        x = self.prompt(micro_batch)
        self._compute("cross_keys", layers[0], micro_batch, x, cache, work)

    def decode(self, micro_batch: int) -> None:
        """A new token of each sequence through the stage's layers; at the end, the next ones."""
        node, work, size = self.node, self.node.work, self.node.batches[micro_batch].size
        for spec in self.decode_layers:
            core = work.decode_core(spec, size, node.context(micro_batch))
            before = work.embedding(size) if self._begins(spec) else None
            after = work.head(size) if self._ends(spec) else None
            whole = work.join(core, work.post_attention(spec, size), before, after)
            others = [self.cache[spec.index, micro_batch]]
            others += [self.tokens[micro_batch]] if before or after else []
            x = self.hidden[micro_batch]
            self._compute("compute_layer", spec, micro_batch, x, others, whole)

    def _begins(self, spec: LayerSpec) -> bool:
        return self.is_first and spec.index == 0

    def _ends(self, spec: LayerSpec) -> bool:
        return self.is_last and spec == self.node.layers[-1]

    def _compute(
        self, op: str, spec: LayerSpec, j: int, x: Buffer, others: Sequence[Buffer], work: Work
    ) -> None:
        self.node.issuer.host = self.gpu.index
        buffers = [x, *others]
        self.node.issuer.task(op, self.gpu.gpu, buffers, buffers, work, spec.index, j)

    # -- messages -------------------------------------------------------------------------------

    def send_prompts(self, to: "PipelineStage", micro_batch: int) -> None:
        """Hidden states of the prompts."""
        size = self.node.work.hidden_bytes(self.node.batches[micro_batch].prompt_tokens)
        source, target = self.prompt(micro_batch), to.prompt(micro_batch)
        self._send("send_hidden", source, target, size, micro_batch)

    def send_hidden(self, to: "PipelineStage", micro_batch: int) -> None:
        """Hidden states of the new tokens."""
        source, target = self.hidden[micro_batch], to.hidden[micro_batch]
        size = self.node.work.hidden_bytes(self.node.batches[micro_batch].size)
        self._send("send_hidden", source, target, size, micro_batch)

    def send_tokens(self, to: "PipelineStage", micro_batch: int) -> None:
        """The tokens that were chosen, to the stage that has the embedding."""
        source, target = self.tokens[micro_batch], to.tokens[micro_batch]
        size = TOKEN_BYTES * self.node.batches[micro_batch].size
        self._send("send_tokens", source, target, size, micro_batch)

    def _send(self, op: str, source: Buffer, target: Buffer, size: float, j: int) -> None:
        self.node.issuer.host = self.gpu.index
        work, last = self.node.work.copy("peer", size), self.decode_layers[-1].index
        self.node.issuer.task(op, self.gpu.d2h, [source], [target], work, last, j)


def _share(layers: tuple[LayerSpec, ...], stage: int, stages: int) -> tuple[LayerSpec, ...]:
    """The stage's contiguous part of the layers, as even as whole layers allow."""
    count = len(layers)
    return layers[stage * count // stages : (stage + 1) * count // stages]


def _part(work: Work, share: float) -> Work:
    """So much of the work, in so many of its calls."""
    return work.model_copy(
        update={
            "flops": {kernel: flops * share for kernel, flops in work.flops.items()},
            "bytes": {memory: size * share for memory, size in work.bytes.items()},
            "calls": round(work.calls * share),
        }
    )
