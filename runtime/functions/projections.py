"""Before and after attention: queries, keys and values of the hidden states, and the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.linear import add_linear, linear
from runtime.functions.norms import norm, rms_norm
from runtime.functions.rotary import rotary_bytes, rotate
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace


def qkv(
    arch: Architecture,
    w: LayerWeights,
    hidden: Tensor,
    positions: Tensor,
    out: Tensor,
    ws: Workspace,
) -> None:
    """Norm, projections, biases, norms of queries and keys, clamp and rotary embedding.

    hidden (t, H), positions (t,) int64, out (t, qkv_size): per token all query heads, then the key
    heads, then the value heads. Steps that the model does not have are left out.
    """
    heads, item = arch.n_heads + arch.n_kv_heads, hidden.element_size()
    bytes_each = (hidden.shape[1] * item, rotary_bytes(heads, arch.head_dim, item))
    step = ws.rows(*bytes_each, limit=max(1, len(hidden)))
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        with ws.scope():
            normed = ws.take(hidden[rows].shape, hidden.dtype)
            norm(arch, hidden[rows], w.vectors["attn_norm"], normed)
            _project(arch, w, normed, out[rows])
        q_and_k = out[rows, : heads * arch.head_dim].unflatten(1, (heads, arch.head_dim))
        if arch.rope.frequencies:
            rotate(arch.rope, q_and_k, positions[rows], ws)


def _project(arch: Architecture, w: LayerWeights, normed: Tensor, out: Tensor) -> None:
    """Packed queries, keys and values of normed (t, H), before the rotary embedding."""
    parts = out.split([arch.query_size, arch.kv_width, arch.kv_width], dim=1)
    for name, part in zip("qkv", parts, strict=True):
        linear(w, name, normed, part)
        if f"{name}_bias" in w.vectors:
            part.add_(w.vectors[f"{name}_bias"])
        if f"{name}_norm" in w.vectors:
            weight = w.vectors[f"{name}_norm"]  # over each head, or over all of them
            each = part.unflatten(1, (-1, len(weight)))
            rms_norm(each, weight, arch.norm_eps, each)
    if arch.clip_qkv is not None:
        out.clamp_(-arch.clip_qkv, arch.clip_qkv)


def out_projection(
    arch: Architecture,
    w: LayerWeights,
    attended: Tensor,
    hidden: Tensor,
    ws: Workspace,
    partial: bool = False,
) -> None:
    """Adds the projected attention output (t, query_size) to hidden (t, H).

    With `partial` it overwrites hidden, and leaves out the bias: under tensor parallelism one rank
    keeps the residual and the others give their part of the sum.
    """
    if partial:
        linear(w, "o", attended, hidden)
        return
    add_linear(w, "o", attended, hidden)
    if "o_bias" in w.vectors:
        torch.add(hidden, w.vectors["o_bias"], out=hidden)
