"""The work of every operation, from the model and its operands, once for all schedules.

Counting rules, per token and matrix of p parameters: 2 p flops (multiply and add); a weight
matrix is read once per call, whatever the number of tokens; activations are read and written once
at the boundary of an operation. Bytes per element follow the model's dtype.

By hand, Mixtral 8x7B in float16, one layer, decode of 36 sequences (h = 4096, 8 experts of
3 x 4096 x 14336, top-2, 32 query and 8 KV heads of 128):
expert weights 8 x 3 x 4096 x 14336 x 2 B = 2.819e9 B, all eight touched by 72 choices;
expert flops 36 x 2 x 2 x 3 x 4096 x 14336 = 25.4e9;
KV of one token 2 x 8 x 128 x 2 B = 4096 B; attention 4 x 32 x 128 = 16384 flops per pair.
"""

from collections.abc import Mapping
from functools import lru_cache

from schedules.batching import MicroBatch
from schedules.kernels import CALLS, Kernels
from schedules.layer_parts import ExpertParts
from schedules.model import LayerSpec, ModelSpec
from schedules.routing import Routing
from schedules.task import NOTHING, Work


class LayerWork(ExpertParts):
    """Work of the operations of one model on one of `gpus` tensor-parallel GPUs.

    Weights, heads and experts' widths are split evenly over the GPUs; hidden states are not.
    `cpu_share` is the share of the CPU's cores that serves this GPU's process.
    Results are cached: equal operands give the same `Work` object.
    """

    def __init__(
        self,
        model: ModelSpec,
        routing: Routing,
        kernels: Kernels,
        gpus: int = 1,
        cpu_share: float = 1.0,
    ) -> None:
        super().__init__(model, kernels, gpus)
        self.routing = routing
        self.cpu_share = cpu_share
        self.copy = lru_cache(maxsize=None)(self._copy)
        self.qkv = lru_cache(maxsize=None)(self._qkv)
        self.ffn = lru_cache(maxsize=None)(self._ffn)
        self.out_projection = lru_cache(maxsize=None)(self._out_projection)
        self.post_attention = lru_cache(maxsize=None)(self._post_attention)
        self._memo: dict[tuple[object, ...], Work] = {}
        self._joined: list[list[Work]] = []

    # -- operations on the GPU ------------------------------------------------------------------

    def embedding(self, tokens: float) -> Work:
        """Look up the embeddings of `tokens` tokens."""
        moved = 2 * self.hidden_bytes(tokens)
        return self._gpu("embedding", {}, moved, CALLS["embedding"])

    def head(self, rows: float) -> Work:
        """Final norm, output projection and choice of the next token for `rows` positions."""
        matrix = self.model.vocab_size * self.model.hidden_size / self.gpus
        moved = matrix * self.b + self.hidden_bytes(rows)
        return self._gpu("head", {"gemm": 2 * rows * matrix}, moved, CALLS["head"])

    def _qkv(self, layer: LayerSpec, tokens: float) -> Work:
        """Norm, query, key and value projections and rotary embedding: the paper's PreAttn."""
        p = self._decode_attention_parameters(layer) - self._out_parameters(layer)
        moved = self._dense_use(p) + self.hidden_bytes(tokens) + self.qkv_bytes(layer, tokens)
        calls = CALLS["qkv"] + self._unpack_calls(3)
        return self._gpu("qkv", {"gemm": 2 * tokens * p / self.gpus}, moved, calls)

    def _out_projection(self, layer: LayerSpec, tokens: float) -> Work:
        """Output projection of the attention and the residual."""
        p = self._out_parameters(layer)
        moved = self._dense_use(p) + self.attended_bytes(layer, tokens)
        moved += 2 * self.hidden_bytes(tokens)
        calls = CALLS["out"] + self._unpack_calls(1)
        return self._gpu("out", {"gemm": 2 * tokens * p / self.gpus}, moved, calls)

    def _ffn(self, layer: LayerSpec, tokens: float) -> Work:
        """Norm, router, experts and shared experts, or the dense FFN."""
        experts, where = (layer.n_experts, layer.top_k), (layer.stack, layer.index)
        distinct = self.routing.expected_distinct(tokens, *experts, *where, kept=layer.kept)
        rows = tokens * layer.choices
        if self.kernels.experts == "fused" and layer.is_moe:
            tile = self.kernels.rows_per_tile(rows, layer.n_experts)
            rows = self.routing.expected_rows(tokens, *experts, tile, *where, kept=layer.kept)
        return self._experts(layer, tokens, distinct, rows)

    def gate(self, layer: LayerSpec, tokens: float) -> Work:
        """Norm and router alone: what names the experts."""
        p = layer.router_parameters
        moved = (p + layer.ffn_norm_parameters) / self.gpus * self.b + self.hidden_bytes(tokens)
        moved += self.routed_bytes(layer, tokens)
        flops = {"gemm": 2 * tokens * p / self.gpus}
        return self._gpu("gate", flops, moved, CALLS["router"])

    def ffn_norm(self, layer: LayerSpec, tokens: float) -> Work:
        """The norm before an FFN where no router follows: hidden states are read and written."""
        moved = layer.ffn_norm_parameters * self.b + 2 * self.hidden_bytes(tokens)
        return self._gpu("norm", {}, moved, CALLS["norm"])

    def routed_experts(self, layer: LayerSpec, tokens: float, counts: tuple[int, ...]) -> Work:
        """Experts that a gate has chosen, and the shared ones; `counts` is tokens per expert."""
        rows = sum(counts)
        if self.kernels.experts == "fused":
            tile = self.kernels.rows_per_tile(rows, layer.n_experts)
            rows = sum(-(-count // tile) * tile for count in counts)
        return self._experts(layer, tokens, len(counts), rows, routes=False)

    def _experts(
        self,
        layer: LayerSpec,
        tokens: float,
        distinct: float,
        rows: float,
        routes: bool = True,
    ) -> Work:
        """`distinct` experts for `rows` rows, and the shared ones, which every token meets.

        `routes`: norm and router are part of it; otherwise they have been applied before.
        """
        b, gpus, h = self.b, self.gpus, self.model.hidden_size
        router, norm = (layer.router_parameters, layer.ffn_norm_parameters) if routes else (0, 0)
        weights = self._expert_use(distinct * layer.expert_parameters)
        weights += self._dense_use(layer.shared_parameters) + (router + norm) / gpus * b
        inner = layer.choices * (2 * h + layer.ffn_matrices * layer.ffn_size / gpus)
        moved = weights + tokens * (2 * h + inner) * b
        routed = 2 * rows * layer.expert_parameters / gpus
        shared = 2 * tokens * (router + layer.shared_parameters) / gpus
        if not layer.is_moe:
            calls = CALLS["dense"] + self._expert_unpack_calls(layer, 1)
            return self._gpu("ffn", {"gemm": routed + shared}, moved, calls)
        calls = (CALLS["router"] if routes else 0) + self._expert_unpack_calls(layer, distinct)
        calls += self._unpack_calls(3) if layer.shared_parameters else 0
        if self.kernels.experts == "fused":
            flops = {"gemm": shared, "experts": routed}
            return self._gpu("ffn", flops, moved, calls + CALLS["experts"])
        calls += CALLS["per_expert"] * max(1, round(distinct))
        return self._gpu("ffn", {"gemm": routed + shared}, moved, calls)

    def gpu_attention(self, layer: LayerSpec, sequences: float, context: float) -> Work:
        """Decode attention on the GPU: `context` tokens cached, summed over the sequences."""
        unpacking = self.quantisation.unpacking(self.quantisation.kv, self.b)
        moved = self.kv_elements(layer, context) * (self.kv_b + unpacking)
        moved += self.qkv_bytes(layer, sequences) + self.attended_bytes(layer, sequences)
        flops = {"attention": layer.attention_flops_per_pair * context / self.gpus}
        calls = CALLS["attention"] + (2 if unpacking else 0)  # keys, values
        return self._gpu("attention", flops, moved, calls)

    def prefill_attention(self, layer: LayerSpec, batch: MicroBatch) -> Work:
        """Attention of whole prompts, causal (half of the pairs) except in an encoder."""
        pairs = batch.sum_of_squares * (1.0 if layer.stack == "encoder" else 0.5)
        tokens = batch.prompt_tokens
        moved = self.qkv_bytes(layer, tokens) + self.attended_bytes(layer, tokens)
        flops = {"attention": layer.prefill_flops_per_pair * pairs / self.gpus}
        return self._gpu("attention", flops, moved, CALLS["attention"])

    def cross_keys(self, tokens: float) -> Work:
        """Cross-attention keys and values of all decoder layers, once per prompt (T5)."""
        layers = [la for la in self.model.decoder_layers if la.cross_attention]
        p = sum(la.kv_size * self.model.hidden_size for la in layers) / self.gpus
        kv = sum(self.kv_bytes(la, tokens) for la in layers)
        moved = self._dense_use(p * self.gpus) + kv + self.hidden_bytes(tokens)
        calls = (2 + self._unpack_calls(2)) * len(layers)
        return self._gpu("cross", {"gemm": 2 * tokens * p}, moved, calls)

    # -- operations on the CPU, copies ----------------------------------------------------------

    def cpu_attention(self, layer: LayerSpec, sequences: float, context: float) -> Work:
        """Decode attention on the CPU: `context` tokens cached, summed over the sequences.

        Native: each cached byte is read once. torch: each element is read as it is cached (kv_b
        bytes), written and read again in float32 (4 + 4), and, when g > 1 query heads share it,
        written and read once more for each of them (2 x 4 g): 42 bytes instead of 2 for Mixtral
        (g = 4, b = 2), 10 instead of 2 for OPT (g = 1).
        """
        each = self.kv_b
        dtype = self.model.dtype
        if self.kernels.cpu_attention == "torch":
            g = layer.query_heads_per_kv_head
            each += 8 + (8 * g if g > 1 else 0)
            dtype = "float32"
        moved = self.kv_elements(layer, context) * each
        moved += self.qkv_bytes(layer, sequences) + self.attended_bytes(layer, sequences)
        flops = layer.attention_flops_per_pair * context / self.gpus
        key = ("cpu", dtype, flops, moved)
        if key not in self._memo:
            self._memo[key] = Work(
                device="cpu",
                dtype=dtype,
                flops={"attention": flops},
                bytes={"cpu": moved},
                calls=1,
                share=self.cpu_share,
            )
        return self._memo[key]

    def _copy(self, link: str, size_bytes: float) -> Work:
        """One copy over a link; both ends' memories are touched."""
        ends = _ENDS.get(link.removesuffix("_pageable"), {})
        touched = {memory: times * size_bytes for memory, times in ends.items()}
        return Work(
            device="link",
            dtype=self.model.dtype,
            bytes=touched,
            link_bytes={link: size_bytes},
            calls=1,
        )

    def gather(self, size_bytes: float, shards: int) -> Work:
        """ZeRO-3's all-gather of a layer of `size_bytes`: it receives what the other GPUs hold and,
        also on one GPU, copies all of it once more within the GPU into a contiguous tensor."""
        if shards == 1 and not self.kernels.gathers:
            return NOTHING
        received = size_bytes * (1 - 1 / shards)
        key = ("gather", size_bytes, shards)
        if key not in self._memo:
            self._memo[key] = Work(
                device="link",
                dtype=self.model.dtype,
                bytes={"gpu": 2 * size_bytes},
                link_bytes={"peer": received} if received else {},
                calls=1,
            )
        return self._memo[key]

    # -- whole layers ---------------------------------------------------------------------------

    def decode_core(self, layer: LayerSpec, sequences: float, context: float) -> Work:
        """Projections and attention of one decode layer, all of it on the GPU."""
        attention = self.gpu_attention(layer, sequences, context)
        return self.join(self.qkv(layer, sequences), attention)

    def _post_attention(self, layer: LayerSpec, tokens: float) -> Work:
        """Output projection and FFN: the paper's PostAttn."""
        return self.join(self.out_projection(layer, tokens), self.ffn(layer, tokens))

    def prefill_core(self, layer: LayerSpec, batch: MicroBatch) -> Work:
        """Projections and attention of one prefill layer."""
        tokens = batch.prompt_tokens
        return self.join(self.qkv(layer, tokens), self.prefill_attention(layer, batch))

    def end_of_prefill(self, batch: MicroBatch) -> Work:
        """What follows the last prefill layer: the first token, or cross-attention's keys."""
        if self.model.is_encoder_decoder:
            return self.cross_keys(batch.prompt_tokens)
        every = self.kernels.logits != "last"
        return self.head(batch.prompt_tokens if every else batch.size)

    def join(self, first: Work, *others: Work | None) -> Work:
        """Operations that run as one task; the same operands give the same `Work` object."""
        parts = [first, *(other for other in others if other is not None)]
        if len(parts) == 1:
            return first
        key = ("join", *(id(part) for part in parts))
        if key not in self._memo:
            self._joined.append(parts)  # keeps the parts alive, so their ids stay theirs
            self._memo[key] = sum(parts[1:], start=first)
        return self._memo[key]

    # -- helpers --------------------------------------------------------------------------------

    def _out_parameters(self, layer: LayerSpec) -> float:
        return layer.query_size * self.model.hidden_size * (2 if layer.cross_attention else 1)

    def _decode_attention_parameters(self, layer: LayerSpec) -> float:
        """Cross-attention keys and values are projected once per prompt, not per token."""
        once = layer.kv_size * self.model.hidden_size if layer.cross_attention else 0
        return layer.attention_parameters - once

    def _gpu(self, op: str, flops: Mapping[str, float], moved: float, calls: int) -> Work:
        key = ("gpu", op, *sorted(flops.items()), moved, calls)
        if key not in self._memo:
            self._memo[key] = Work(
                device="gpu",
                dtype=self.model.dtype,
                flops=dict(flops),
                bytes={"gpu": moved},
                calls=calls,
            )
        return self._memo[key]


# How often each byte of a copy touches a memory.
_ENDS = {
    "h2d": {"cpu": 1, "gpu": 1},
    "d2h": {"cpu": 1, "gpu": 1},
    "pin": {"cpu": 2},
    "pin_parallel": {"cpu": 2},
    "peer": {"gpu": 2},
    "disk": {"disk": 1, "cpu": 1},
}
