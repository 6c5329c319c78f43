"""Bytes of weights, cache and activations on one GPU."""

from schedules.kernels import Kernels
from schedules.model import LayerSpec, ModelSpec
from schedules.quantisation import Quantisation


class LayerSizes:
    """Sizes, in bytes, of what one of `gpus` tensor-parallel GPUs holds of a model.

    Weights, heads and experts' widths are split evenly over the GPUs; hidden states are not.

    Bytes of an element: `b` of activations and of what is in the model's own format, `expert_b` of
    experts, `dense_b` of attention and shared experts, `kv_b` of the cache. A use of a parameter
    in fewer bits moves `expert_unpacking` or `dense_unpacking` bytes beside (see `Quantisation`);
    norms and biases, which are few, count as the matrices beside them.
    """

    def __init__(self, model: ModelSpec, kernels: Kernels, gpus: int = 1) -> None:
        self.model = model
        self.kernels = kernels
        self.gpus = gpus
        self.b = b = model.bytes_per_parameter
        self.quantisation = q = model.quantisation or Quantisation()
        self.expert_b, self.dense_b = q.stored(q.experts, b), q.stored(q.dense, b)
        self.kv_b = q.stored(q.kv, b)
        self.expert_unpacking = q.unpacking(q.experts, b)
        self.dense_unpacking = q.unpacking(q.dense, b)

    def attention_bytes(self, layer: LayerSpec) -> float:
        """Attention weights, with router, norms and shared experts: what CGOPipe keeps resident."""
        packed = (layer.attention_parameters + layer.shared_parameters) * self.dense_b
        plain = (layer.router_parameters + layer.ffn_norm_parameters) * self.b
        return (packed + plain) / self.gpus

    def projection_bytes(self, layer: LayerSpec) -> float:
        """Attention weights alone."""
        return layer.attention_parameters * self.dense_b / self.gpus

    def expert_bytes(self, layer: LayerSpec) -> float:
        """Weights of all routed experts of a layer (the whole FFN where it is dense)."""
        return layer.expert_pool_parameters * self.expert_b / self.gpus

    def layer_bytes(self, layer: LayerSpec) -> float:
        """All weights of a layer."""
        return self.attention_bytes(layer) + self.expert_bytes(layer)

    def embedding_bytes(self) -> float:
        """Token and position embeddings, whole on every GPU, and its share of the output head."""
        m = self.model
        return (m.embedding_parameters + m.head_parameters / self.gpus) * self.b

    def kv_bytes(self, layer: LayerSpec, tokens: float) -> float:
        """Cached keys and values of `tokens` tokens; each GPU holds at least one KV head.

        The latent of MLA serves all heads, so every GPU holds all of it.
        """
        return self.kv_elements(layer, tokens) * self.kv_b

    def kv_elements(self, layer: LayerSpec, tokens: float) -> float:
        """Elements of the cached keys and values of `tokens` tokens."""
        return tokens * layer.kv_size / self._kv_shares

    @property
    def _kv_shares(self) -> int:
        """How many different shares of keys and values the GPUs have."""
        return min(self.gpus, 1 if self.model.mla else self.model.n_kv_heads)

    def hidden_bytes(self, tokens: float) -> float:
        """Hidden states of `tokens` tokens."""
        return tokens * self.model.hidden_size * self.b

    def qkv_bytes(self, layer: LayerSpec, tokens: float) -> float:
        """Queries, keys and values of `tokens` tokens."""
        queries = layer.qkv_size - layer.kv_size
        return tokens * (queries / self.gpus + layer.kv_size / self._kv_shares) * self.b

    def attended_bytes(self, layer: LayerSpec, tokens: float) -> float:
        """Attention outputs of `tokens` tokens, before the output projection."""
        return tokens * layer.query_size * self.b / self.gpus

    def routed_bytes(self, layer: LayerSpec, tokens: float) -> float:
        """Expert ids (8 bytes each) and gate weights of `tokens` tokens."""
        return tokens * layer.top_k * (8 + self.b)

    def workspace_bytes(self, layer: LayerSpec, tokens: float, sequences: float) -> float:
        """Activations alive at the widest point of a layer, or of the output head."""
        return max(
            self.layer_workspace_bytes(layer, tokens), self.head_workspace_bytes(tokens, sequences)
        )

    def layer_workspace_bytes(self, layer: LayerSpec, tokens: float) -> float:
        """Activations alive at the widest point of a layer.

        A fused expert kernel holds, for each token and chosen expert, the gate and up projections,
        their product and the output; a loop over experts holds one expert's share of the tokens
        at a time, here counted as one choice of each token.
        """
        m, gpus = self.model, self.gpus
        choices = layer.top_k if self.kernels.experts == "fused" else 1
        inner = 3 if layer.ffn_matrices == 3 else 1  # gate, up and product; or up, in place
        ffn = choices * (inner * layer.ffn_size / gpus + m.hidden_size) * self.b
        core = (layer.qkv_size + layer.query_size) / gpus * self.b
        return tokens * max(ffn, core) + 2 * self.hidden_bytes(tokens) + self.scratch_bytes(layer)

    def scratch_bytes(self, layer: LayerSpec) -> float:
        """Room in which one packed matrix of an expert, or of the attention, is written out."""
        experts = layer.ffn_size if self.expert_unpacking else 0
        dense = layer.query_size if self.dense_unpacking else 0
        return self.model.hidden_size * max(experts, dense) / self.gpus * self.b

    def head_workspace_bytes(self, tokens: float, sequences: float) -> float:
        """Normed hidden states and logits at the end of prefill."""
        rows = sequences if self.kernels.logits == "last" else tokens
        logit_bytes = self.b + (4 if self.kernels.logits == "all_float32" else 0)
        return rows * self.model.vocab_size * logit_bytes / self.gpus + self.hidden_bytes(tokens)
