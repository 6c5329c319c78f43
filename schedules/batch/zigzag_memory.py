"""The memory of one stage of FlexGen's zig-zag."""

from typing import Literal

from schedules.batching import MicroBatch
from schedules.contents import KVSpan, Span
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer

Kind = Literal["attention", "ffn"]
KEYS_AND_VALUES = range(2)  # two tensors, copied one after the other
RING = 3  # hidden states on the GPU: of the micro-batch before, this one, the next one


class StageMemory:
    """The layers of one GPU and their buffers.

    `parts[t][j]` is the share of micro-batch j that runs in pipeline turn t; with one GPU there is
    one part, the whole.
    """

    def __init__(self, node: Node, gpu: GpuNames, attention_on_cpu: bool) -> None:
        self.node = node
        self.gpu = gpu
        self.on_cpu = attention_on_cpu
        n = len(node.gpus)
        self.cpu = "cpu" if n == 1 else f"cpu{gpu.index}"
        self.parts = [[_part(batch, t, n) for batch in node.batches] for t in range(n)]
        self.prefill_layers = _share(node.prefill_layers, gpu.index, n)
        self.decode_layers = _share(node.model.decoder_layers, gpu.index, n)
        self._allocate()

    def _allocate(self) -> None:
        node, g, work = self.node, self.gpu, self.node.work
        encoder = self.prefill_layers if node.model.is_encoder_decoder else ()
        layers = (*encoder, *self.decode_layers)
        kinds: tuple[Kind, ...] = ("attention", "ffn")
        every = [sum(self.streamed(s, k)) for s in layers for k in kinds]
        on_gpu = sum(self.weight_bytes(s, k) for s in layers for k in kinds) - sum(every)
        tensors = [
            (span, size)
            for s in layers
            for k in kinds
            for span, size in zip(self.spans(s, k), self.streamed(s, k), strict=True)
        ]
        static = [span for span, size in tensors if not size]
        node.on_gpu(g, "static weights", on_gpu + work.embedding_bytes(), static)
        travel = [span for span, size in tensors if size]
        self.home = node.on_host("host weights", sum(every), node.pinned, travel, g)
        largest = {
            k: [max(sizes) for sizes in zip(*(self.streamed(s, k) for s in layers), strict=True)]
            for k in kinds
        }
        self.weights = {
            k: [node.on_gpu(g, f"weights[{k}]", size) for size in largest[k]] for k in kinds
        }
        staged = 0 if node.pinned else 1
        self.staging = {
            k: [node.on_host(f"staging[{k}]", size * staged, True, gpu=g) for size in largest[k]]
            for k in kinds
        }
        batches = [batch for part in self.parts for batch in part]
        widest = max(batches, key=lambda batch: batch.prompt_tokens)
        self.most = max(batch.size for batch in batches)
        new_kv = self._allocate_new_kv(widest)
        space = max(work.layer_workspace_bytes(s, widest.prompt_tokens) for s in layers)
        head = work.head_workspace_bytes(widest.prompt_tokens, self.most)
        node.on_gpu(g, "workspace", max(space, head - new_kv))
        self._allocate_hidden(widest)
        self._allocate_cache()

    def _allocate_new_kv(self, widest: MicroBatch) -> float:
        """Two places for the keys and values that an attention makes, until they are stored.

        At most one is in use while the output head runs, so its logits have the other one too.
        Returns the bytes of one.
        """
        size = self.node.work.kv_bytes(self.decode_layers[0], widest.prompt_tokens)
        size *= self.node.policy.r_c < 1
        self.new_kv = [self.node.on_gpu(self.gpu, f"new KV[{i}]", size) for i in range(2)]
        return size

    def _allocate_hidden(self, widest: MicroBatch) -> None:
        node, spec = self.node, self.decode_layers[0]
        size = node.work.hidden_bytes(widest.prompt_tokens)
        staying = [self.stays(j) for j in range(node.n_micro_batches)]
        moving = not all(staying)
        self.ring = [
            node.on_gpu(self.gpu, f"prompt hidden[{i}]", size * moving) for i in range(RING)
        ]
        self.hidden_gpu: list[list[Buffer | None]] = [
            [
                node.on_gpu(self.gpu, f"prompt hidden[{j}]", size) if stays else None
                for j, stays in enumerate(staying)
            ]
            for _ in self.parts
        ]
        self.hidden_host = [
            [
                node.on_host(
                    f"prompt hidden[{j}]",
                    node.work.hidden_bytes(b.prompt_tokens) * (not self.stays(j)),
                    True,
                    gpu=self.gpu,
                )
                for j, b in enumerate(part)
            ]
            for part in self.parts
        ]
        self.qkv = node.on_gpu(self.gpu, "qkv", node.work.qkv_bytes(spec, self.most))
        qkv, attended = (
            f(spec, self.most) for f in (node.work.qkv_bytes, node.work.attended_bytes)
        )
        self.qkv_host = node.on_host("qkv", qkv, gpu=self.gpu)
        self.attended_host = node.on_host("attended", attended, gpu=self.gpu)
        self.attended = node.on_gpu(self.gpu, "attended", node.work.attended_bytes(spec, self.most))

    def _allocate_cache(self) -> None:
        node, share = self.node, self.node.policy.r_c
        sizes = [
            [
                node.work.kv_bytes(self.decode_layers[0], b.prompt_tokens + node.gen_len * b.size)
                for b in part
            ]
            for part in self.parts
        ]
        blocks = [
            (spec.index, t, j, size)
            for spec in self.decode_layers
            for t, row in enumerate(sizes)
            for j, size in enumerate(row)
        ]
        self.cache_gpu = {
            (i, t, j): node.on_gpu(
                self.gpu, f"KV[{i},{t},{j}]", size * share, [KVSpan(i, j, 0.0, share)]
            )
            for i, t, j, size in blocks
            if share
        }
        self.cache = {
            (i, t, j): node.on_host(
                f"KV[{i},{t},{j}]",
                size * (1 - share),
                holds=[KVSpan(i, j, share)] if share < 1 else [],
                gpu=self.gpu,
            )
            for i, t, j, size in blocks
        }
        moving = 0.0 if self.on_cpu else max(map(max, sizes)) * (1 - share)
        self.blocks = [
            [node.on_gpu(self.gpu, f"KV block[{i}]", moving / 2) for _ in KEYS_AND_VALUES]
            for i in range(2)
        ]
        self.kv_staging = [
            [
                node.on_host(f"KV staging[{i}]", moving / 2, True, gpu=self.gpu)
                for _ in KEYS_AND_VALUES
            ]
            for i in range(2)
        ]

    def weight_bytes(self, spec: LayerSpec, kind: Kind) -> float:
        """Weights of one of FlexGen's layers."""
        work = self.node.work
        attention = work.projection_bytes(spec)
        return attention if kind == "attention" else work.layer_bytes(spec) - attention

    def streamed(self, spec: LayerSpec, kind: Kind) -> list[float]:
        """Bytes of each tensor of them that live in host memory; 0 for a tensor on the GPU.

        FlexGen places whole tensors: one is on the GPU if its middle lies in the last share r_w of
        the layer's weights (`init_weight_list`), so a small r_w can place nothing. Its attention
        has four (query, key, value, output), its FFN two: gate and up of all experts, and down.
        """
        whole = self.weight_bytes(spec, kind)
        return [
            whole * (stop - start) if (start + stop) / 2 < 1 - self.node.policy.r_w else 0.0
            for _, _, start, stop, _ in self.spans(spec, kind)
        ]

    @staticmethod
    def spans(spec: LayerSpec, kind: Kind) -> list[Span]:
        """The tensors of one of FlexGen's layers."""
        q, kv = spec.query_size, spec.kv_size / 2
        tensors = [q, kv, kv, q] if kind == "attention" else [spec.ffn_matrices - 1, 1]
        edges = [sum(tensors[:i]) / sum(tensors) for i in range(len(tensors) + 1)]
        return [Span(spec.number, kind, edges[i], edges[i + 1]) for i in range(len(tensors))]

    def stays(self, micro_batch: int) -> bool:
        """Whether a micro-batch's hidden states stay on the GPU; the first share r_h does."""
        return micro_batch < round(self.node.policy.r_h * self.node.n_micro_batches)


def _share(layers: tuple[LayerSpec, ...], stage: int, n: int) -> tuple[LayerSpec, ...]:
    """The stage's contiguous part of the layers."""
    count = len(layers)
    return layers[stage * count // n : (stage + 1) * count // n]


def _part(batch: MicroBatch, part: int, n: int) -> MicroBatch:
    """Every n-th request, from `part` on."""
    return MicroBatch(batch.index, batch.prompt_lengths[part::n], batch.requests[part::n])
