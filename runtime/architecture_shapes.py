"""Shapes of the weights of a layer, by the names that the runtime gives them."""

from typing import NamedTuple

from runtime.architecture import Architecture
from schedules.layout import EXPERTS, layer_matrices

EXPERT_MATRICES = EXPERTS
SHARED_MATRICES = ("shared_gate", "shared_up", "shared_down")


class Shape(NamedTuple):
    """`stack` matrices of (rows, cols) under one name: one per expert, or a single one."""

    stack: int
    rows: int
    cols: int


def matrix_shapes(arch: Architecture, layer: int) -> dict[str, Shape]:
    """The matrices of a layer as this rank holds them, (out_features, in_features) each.

    DBRX's `down` is transposed: (in_features, out_features). Order and sizes are those of
    `schedules.layout`, by which schedules cut weights.
    """
    matrices = layer_matrices(arch.spec, arch.spec.decoder_layers[layer], arch.world)
    return {m.name: Shape(m.experts, m.rows // m.experts, m.cols) for m in matrices.values()}


def vector_sizes(arch: Architecture, layer: int) -> dict[str, int]:
    """Elements of the vectors of a layer as this rank holds them; those that it has."""
    spec, hidden = arch.spec, arch.hidden_size
    sizes = {"attn_norm": hidden, "ffn_norm": hidden}
    if spec.qk_norm == "head":
        sizes |= {"q_norm": arch.head_dim, "k_norm": arch.head_dim}
    if spec.qk_norm == "all":
        sizes |= {"q_norm": arch.query_size, "k_norm": arch.kv_width}
    if spec.attention_bias != "none":
        sizes |= {"q_bias": arch.query_size, "k_bias": arch.kv_width, "v_bias": arch.kv_width}
    if spec.attention_bias == "all":
        sizes["o_bias"] = hidden
    if spec.shared_expert_gate and spec.decoder_layers[layer].is_moe:
        sizes["shared_expert_gate"] = hidden
    return sizes
