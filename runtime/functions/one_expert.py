"""One routed expert for the tokens that have chosen it, which the caller knows."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.feed_forward import feed_forward
from runtime.functions.linear import row_blocks
from runtime.functions.norms import norm
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace


def add_expert(
    arch: Architecture,
    w: LayerWeights,
    expert: int,
    source: Tensor,
    tokens: Tensor,
    gates: Tensor,
    out: Tensor,
    ws: Workspace,
    scale: Tensor | None = None,
) -> None:
    """Adds to out (t, H) what an expert makes of the rows `tokens` (n,) of source (t, H).

    `gates` (n, 1) weigh them. `scale` is the weight of the norm that source still needs; None: it
    is normed. No token may be named twice; then the sum is the same in whatever order.
    """
    width, item = arch.ffn_width(is_moe=True), source.element_size()
    row_bytes = source.shape[1] * item
    step = ws.rows(row_bytes, width * item, width * item, limit=max(1, len(tokens)))
    for start in range(0, len(tokens), step):
        chosen, weights = tokens[start : start + step], gates[start : start + step]
        with ws.scope():
            x = ws.take((len(chosen), source.shape[1]), source.dtype)
            torch.index_select(source, 0, chosen, out=x)
            if scale is not None:
                norm(arch, x, scale, x)
            feed_forward(arch, w, x, width, x, ws, expert)
            for rows in row_blocks(len(x), x.shape[1] * 4):
                torch.mul(x[rows], weights[rows], out=x[rows])
            out.index_add_(0, chosen, x)
