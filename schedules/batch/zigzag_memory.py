"""The memory of one stage of FlexGen's zig-zag."""

from typing import Literal

from schedules.batching import MicroBatch
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node

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
        node.on_gpu(g, "static weights", on_gpu + work.embedding_bytes())
        self.home = node.on_host("host weights", sum(every), node.pinned)
        largest = {
            k: [max(sizes) for sizes in zip(*(self.streamed(s, k) for s in layers), strict=True)]
            for k in kinds
        }
        self.weights = {
            k: [node.on_gpu(g, f"weights[{k}]", size) for size in largest[k]] for k in kinds
        }
        staged = 0 if node.pinned else 1
        self.staging = {
            k: [node.on_host(f"staging[{k}]", size * staged, True) for size in largest[k]]
            for k in kinds
        }
        batches = [batch for part in self.parts for batch in part]
        widest = max(batches, key=lambda batch: batch.prompt_tokens)
        space = max(work.workspace_bytes(s, widest.prompt_tokens, widest.size) for s in layers)
        node.on_gpu(g, "workspace", space)
        self._allocate_hidden(widest)
        self._allocate_cache()

    def _allocate_hidden(self, widest: MicroBatch) -> None:
        node, n = self.node, self.node.n_micro_batches
        share = node.policy.r_h
        size = node.work.hidden_bytes(widest.prompt_tokens)
        count = max(RING, round(share * n * len(self.parts)))
        self.ring = [node.on_gpu(self.gpu, f"hidden[{i}]", size) for i in range(RING)]
        node.on_gpu(self.gpu, "hidden", size * (count - RING))
        self.hidden_host = [
            [
                node.on_host(
                    f"hidden[{j}]", node.work.hidden_bytes(b.prompt_tokens) * (1 - share), True
                )
                for j, b in enumerate(part)
            ]
            for part in self.parts
        ]
        spec = self.decode_layers[0]
        self.qkv = node.on_gpu(self.gpu, "qkv", node.work.qkv_bytes(spec, widest.size))
        self.qkv_host = node.on_host("qkv", node.work.qkv_bytes(spec, widest.size))
        self.attended_host = node.on_host("attended", node.work.attended_bytes(spec, widest.size))
        self.attended = node.on_gpu(
            self.gpu, "attended", node.work.attended_bytes(spec, widest.size)
        )

    def _allocate_cache(self) -> None:
        node, share, work = self.node, self.node.policy.r_c, self.node.work
        sizes = [
            [
                node.work.kv_bytes(self.decode_layers[0], b.prompt_tokens + node.gen_len * b.size)
                for b in part
            ]
            for part in self.parts
        ]
        every = sum(map(sum, sizes)) * len(self.decode_layers)
        node.on_gpu(self.gpu, "KV", every * share)
        self.cache = {
            (spec.index, t, j): node.on_host(f"KV[{spec.index},{t},{j}]", size * (1 - share))
            for spec in self.decode_layers
            for t, row in enumerate(sizes)
            for j, size in enumerate(row)
        }
        moving = 0.0 if self.on_cpu else max(map(max, sizes)) * (1 - share)
        self.blocks = [
            [node.on_gpu(self.gpu, f"KV block[{i}]", moving / 2) for _ in KEYS_AND_VALUES]
            for i in range(2)
        ]
        new = max(work.kv_bytes(self.decode_layers[0], b.size) for part in self.parts for b in part)
        self.new_kv = [
            node.on_gpu(self.gpu, f"new KV[{i}]", 0 if self.on_cpu else new * (1 - share))
            for i in range(2)
        ]
        self.kv_staging = [
            [node.on_host(f"KV staging[{i}]", moving / 2, True) for _ in KEYS_AND_VALUES]
            for i in range(2)
        ]

    def weight_bytes(self, spec: LayerSpec, kind: Kind) -> float:
        """Weights of one of FlexGen's layers."""
        attention = spec.attention_parameters
        count = attention if kind == "attention" else spec.parameters - attention
        return count * self.node.work.b

    def streamed(self, spec: LayerSpec, kind: Kind) -> list[float]:
        """Bytes of each tensor of them that live in host memory; 0 for a tensor on the GPU.

        FlexGen places whole tensors: one is on the GPU if its middle lies in the last share r_w of
        the layer's weights (`init_weight_list`), so a small r_w can place nothing. Its attention
        has four (query, key, value, output), its FFN two: gate and up of all experts, and down.
        """
        whole = self.weight_bytes(spec, kind)
        q, kv = spec.query_size, spec.kv_size / 2
        tensors = [q, kv, kv, q] if kind == "attention" else [spec.ffn_matrices - 1, 1]
        total, end = sum(tensors), 0.0
        sizes = []
        for size in tensors:
            end += size
            on_host = (end - size / 2) / total < 1 - self.node.policy.r_w
            sizes.append(whole * size / total if on_host else 0.0)
        return sizes


def _share(layers: tuple[LayerSpec, ...], stage: int, n: int) -> tuple[LayerSpec, ...]:
    """The stage's contiguous part of the layers."""
    count = len(layers)
    return layers[stage * count // n : (stage + 1) * count // n]


def _part(batch: MicroBatch, part: int, n: int) -> MicroBatch:
    """Every n-th request, from `part` on."""
    return MicroBatch(batch.index, batch.prompt_lengths[part::n])
