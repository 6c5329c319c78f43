"""Shapes of the weights of a layer, by the names that the runtime gives them."""

from typing import NamedTuple

from runtime.architecture import Architecture
from schedules.layout import EXPERTS, layer_at, layer_matrices

EXPERT_MATRICES = EXPERTS
SHARED_MATRICES = ("shared_gate", "shared_up", "shared_down")


class Shape(NamedTuple):
    """`stack` matrices of (rows, cols) under one name: one per expert, or a single one."""

    stack: int
    rows: int
    cols: int


def n_layers(arch: Architecture) -> int:
    """All layers: those of the decoder, then those of the encoder (see `schedules.layout`)."""
    return arch.spec.n_layers + arch.spec.n_encoder_layers


def matrix_shapes(arch: Architecture, layer: int) -> dict[str, Shape]:
    """The matrices of a layer as this rank holds them, (out_features, in_features) each.

    DBRX's `down` is transposed: (in_features, out_features). Order and sizes are those of
    `schedules.layout`, by which schedules cut weights.
    """
    matrices = layer_matrices(arch.spec, layer_at(arch.spec, layer), arch.world)
    return {m.name: Shape(m.experts, m.rows // m.experts, m.cols) for m in matrices.values()}


def vector_sizes(arch: Architecture, layer: int) -> dict[str, int]:
    """Elements of the vectors of a layer as this rank holds them; those that it has.

    `position_bias`, (buckets, heads) in the first layer of a stack, counts as a vector.
    """
    spec, hidden = arch.spec, arch.hidden_size
    of = layer_at(spec, layer)
    sizes = {"attn_norm": hidden, "ffn_norm": hidden}
    if spec.qk_norm == "head":
        sizes |= {"q_norm": arch.head_dim, "k_norm": arch.head_dim}
    if spec.qk_norm == "all":
        sizes |= {"q_norm": arch.query_size, "k_norm": arch.kv_width}
    if spec.attention_bias != "none":
        sizes |= {"q_bias": arch.query_size, "k_bias": arch.kv_width, "v_bias": arch.kv_width}
    if spec.attention_bias == "all":
        sizes["o_bias"] = hidden
    if spec.shared_expert_gate and of.is_moe:
        sizes["shared_expert_gate"] = hidden
    if of.cross_attention:
        sizes["cross_norm"] = hidden
    if spec.relative_attention_buckets and of.index == 0:
        sizes["position_bias"] = spec.relative_attention_buckets * spec.n_heads
    if spec.router_bias and of.is_moe:
        sizes["router_bias"] = spec.n_experts
    return sizes
