"""What one layer of a model holds, and how the layers follow from a `ModelSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from schedules.choices import kept_choices
from schedules.model_attention import Attention, attention_of

if TYPE_CHECKING:
    from schedules.model import ModelSpec

Stack = Literal["encoder", "decoder"]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Sizes of one layer; counts are in parameters or elements, never in bytes.

    Parameters
    ----------
    index: position in its stack, from 0.
    number: position in the model: the decoder's layers from 0, then the encoder's.
    stack: `encoder` or `decoder`.
    is_moe: whether the FFN is a router with experts; otherwise it is one expert without a router.
    attention_parameters: query, key, value and output matrices with their biases and norms, those
        of the cross-attention included where there is one; the relative position bias of T5 counts
        in the first layer of a stack, which holds it.
    query_size: elements of the attention output of a token.
    qkv_size: elements of query, key and value of a token. MLA: queries of all heads before the
        absorbed key matrix, the latent and the shared rotary key.
    kv_size: elements that a token keeps in the KV cache of the self-attention; the cross-attention,
        where there is one, keeps as many per encoder token. MLA: the latent and the rotary key.
    query_heads_per_kv_head: 1 for MHA; all heads for MLA, which share one latent.
    attention_flops_per_pair: flops of one query token with one context token in decode, query-key
        and weight-value product; MLA in its absorbed form.
    prefill_flops_per_pair: the same in prefill; MLA with expanded keys and values.
    cross_attention: whether the layer also attends to the encoder's output.
    n_experts, top_k: experts there are and experts a token takes (1 and 1 without experts).
    kept: expected share of these choices that is not skipped.
    expert_parameters: of one expert, its biases included; of the whole FFN where it is dense.
    ffn_size, ffn_matrices: width of one expert; 3 matrices (gate, up, down) or 2 (up, down).
    router_parameters: of the gate; 0 without experts.
    shared_parameters: of the experts that every token takes, with their gate.
    ffn_norm_parameters: of the norm before the FFN.
    """

    index: int
    number: int
    stack: Stack
    is_moe: bool
    attention_parameters: int
    query_size: int
    qkv_size: int
    kv_size: int
    query_heads_per_kv_head: int
    attention_flops_per_pair: int
    prefill_flops_per_pair: int
    cross_attention: bool
    n_experts: int
    top_k: int
    kept: float
    expert_parameters: int
    ffn_size: int
    ffn_matrices: int
    router_parameters: int
    shared_parameters: int
    ffn_norm_parameters: int

    def __hash__(self) -> int:
        """By a few of the fields: layers are keys of every table that a schedule looks into."""
        return hash((self.number, self.n_experts, self.expert_parameters))

    @property
    def choices(self) -> float:
        """Experts that a token takes on average: `top_k`, but for skipped ones."""
        return self.top_k * self.kept

    @property
    def expert_pool_parameters(self) -> int:
        """Parameters of all routed experts of the layer, or of its dense FFN."""
        return self.n_experts * self.expert_parameters

    @property
    def parameters(self) -> int:
        """All parameters of the layer."""
        ffn = self.expert_pool_parameters + self.router_parameters + self.shared_parameters
        return self.attention_parameters + ffn + self.ffn_norm_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: all but those of the experts it does not take."""
        return self.parameters - (self.n_experts - self.top_k) * self.expert_parameters


@lru_cache(maxsize=256)
def build_layers(spec: ModelSpec, stack: Stack) -> tuple[LayerSpec, ...]:
    """The layers of one stack of a model, in order; cached by value."""
    n = spec.n_layers if stack == "decoder" else spec.n_encoder_layers
    cross = stack == "decoder" and spec.is_encoder_decoder
    attention = attention_of(spec)
    return tuple(_layer(spec, stack, index, attention, cross) for index in range(n))


def has_experts(spec: ModelSpec, index: int) -> bool:
    """Whether the layer with this index, in either stack, is an MoE layer.

    >>> from schedules.model_presets import load_model
    >>> [has_experts(load_model("switch-base-8"), i) for i in range(4)]
    [False, True, False, True]
    """
    if spec.n_experts == 1 or index < spec.first_dense_layers or index in spec.dense_layers:
        return False
    offset = spec.moe_every - 1 if spec.moe_offset is None else spec.moe_offset
    return index % spec.moe_every == offset


def _layer(
    spec: ModelSpec, stack: Stack, index: int, attention: Attention, cross: bool
) -> LayerSpec:
    moe = has_experts(spec, index)
    width = spec.expert_ffn_size if moe or spec.n_experts == 1 else spec.dense_ffn_size
    own = attention.cross_parameters if cross else attention.parameters
    position_bias = spec.relative_attention_buckets * spec.n_heads if index == 0 else 0
    return LayerSpec(
        index=index,
        number=index if stack == "decoder" else spec.n_layers + index,
        stack=stack,
        is_moe=moe,
        attention_parameters=own + position_bias,
        query_size=attention.query_size,
        qkv_size=attention.qkv_size,
        kv_size=attention.kv_size,
        query_heads_per_kv_head=attention.query_heads_per_kv_head,
        attention_flops_per_pair=attention.decode_flops_per_pair,
        prefill_flops_per_pair=attention.prefill_flops_per_pair,
        cross_attention=cross,
        n_experts=spec.n_experts if moe else 1,
        top_k=spec.top_k if moe else 1,
        kept=kept_choices(spec.top_k, spec.skip_below) / spec.top_k if moe else 1.0,
        expert_parameters=_ffn_parameters(spec, width),
        ffn_size=width,
        ffn_matrices=spec.ffn_matrices,
        router_parameters=_router_parameters(spec) if moe else 0,
        shared_parameters=_shared_parameters(spec) if moe else 0,
        ffn_norm_parameters=spec.norm_parameters,
    )


def _ffn_parameters(spec: ModelSpec, width: int) -> int:
    biases = (spec.ffn_matrices - 1) * width + spec.hidden_size if spec.ffn_bias else 0
    return spec.ffn_matrices * spec.hidden_size * width + biases


def _router_parameters(spec: ModelSpec) -> int:
    return spec.n_experts * (spec.hidden_size + spec.router_bias)


def _shared_parameters(spec: ModelSpec) -> int:
    gate = spec.hidden_size if spec.shared_expert_gate else 0
    return spec.n_shared_experts * _ffn_parameters(spec, spec.shared_ffn_size) + gate
