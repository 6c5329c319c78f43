"""Parameters, sizes and flops of the attention of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schedules.model import MLA, ModelSpec


@dataclass(frozen=True, slots=True)
class Attention:
    """Sizes of an attention; see `LayerSpec` for their meaning.

    `parameters` has self-attention only, `cross_parameters` self- and cross-attention.
    """

    parameters: int
    cross_parameters: int
    query_size: int
    qkv_size: int
    kv_size: int
    query_heads_per_kv_head: int
    decode_flops_per_pair: int
    prefill_flops_per_pair: int


def attention_of(spec: ModelSpec) -> Attention:
    """The attention of every layer of a model: latent (MLA) or with grouped heads (MHA, GQA)."""
    return _grouped(spec) if spec.mla is None else _latent(spec, spec.mla)


def _grouped(spec: ModelSpec) -> Attention:
    query, kv = spec.n_heads * spec.head_dim, 2 * spec.n_kv_heads * spec.head_dim
    bias = {"none": 0, "qkv": query + kv, "all": query + kv + spec.hidden_size}
    matrices = spec.hidden_size * (2 * query + kv)
    own = matrices + bias[spec.attention_bias] + _qk_norm(spec) + spec.norm_parameters
    flops = 4 * query  # one multiply and one add per element, in q k^T and in its product with v
    return Attention(
        parameters=own,
        cross_parameters=2 * own,
        query_size=query,
        qkv_size=query + kv,
        kv_size=kv,
        query_heads_per_kv_head=spec.n_heads // spec.n_kv_heads,
        decode_flops_per_pair=flops,
        prefill_flops_per_pair=flops,
    )


def _qk_norm(spec: ModelSpec) -> int:
    """Norms of queries and keys: one scale per element of a head, or of all heads."""
    heads = {"none": 0, "head": 2, "all": spec.n_heads + spec.n_kv_heads}
    return heads[spec.qk_norm] * spec.head_dim


def _latent(spec: ModelSpec, mla: MLA) -> Attention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1 and appendix C)."""
    heads, latent = spec.n_heads, mla.kv_lora_rank + mla.qk_rope_head_dim
    query = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    value = heads * mla.v_head_dim
    up = mla.kv_lora_rank * (heads * mla.qk_nope_head_dim + value)
    keys = spec.hidden_size * latent + mla.kv_lora_rank + up  # the latent has a norm
    own = _latent_query(spec, mla, query) + keys + value * spec.hidden_size
    bias = latent + spec.hidden_size if spec.attention_bias == "all" else 0
    own += bias + spec.norm_parameters
    return Attention(
        parameters=own,
        cross_parameters=2 * own,
        query_size=value,
        qkv_size=query + latent,
        kv_size=latent,
        query_heads_per_kv_head=heads,
        decode_flops_per_pair=2 * heads * (latent + mla.kv_lora_rank),
        prefill_flops_per_pair=2 * (query + value),
    )


def _latent_query(spec: ModelSpec, mla: MLA, query: int) -> int:
    """The query projection: one matrix, or two of low rank with a norm between them."""
    if mla.q_lora_rank is None:
        return spec.hidden_size * query
    bias = mla.q_lora_rank if spec.attention_bias == "all" else 0
    return mla.q_lora_rank * (spec.hidden_size + 1 + query) + bias
