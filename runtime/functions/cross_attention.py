"""The decoder's attention to what the encoder has made of the prompt: before and after its core.

The core is `decode_attention` with the architecture's scale; there is no position bias.
"""

from __future__ import annotations

from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.linear import add_linear, linear
from runtime.functions.norms import norm
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace


def cross_keys(w: LayerWeights, encoded: Tensor, keys: Tensor, values: Tensor) -> None:
    """keys and values (t, kv_width) of encoded (t, H), once for the whole generation."""
    linear(w, "cross_k", encoded, keys)
    linear(w, "cross_v", encoded, values)


def cross_queries(
    arch: Architecture, w: LayerWeights, hidden: Tensor, out: Tensor, ws: Workspace
) -> None:
    """out (n, query_size): norm and queries of the decoder's hidden (n, H)."""
    step = ws.rows(hidden.shape[1] * hidden.element_size(), limit=max(1, len(hidden)))
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        with ws.scope():
            normed = ws.take(hidden[rows].shape, hidden.dtype)
            norm(arch, hidden[rows], w.vectors["cross_norm"], normed)
            linear(w, "cross_q", normed, out[rows])


def cross_projection(w: LayerWeights, attended: Tensor, hidden: Tensor) -> None:
    """Adds the projected attention output (n, query_size) to hidden (n, H)."""
    add_linear(w, "cross_o", attended, hidden)
