"""The second half of a layer: norm, router, experts and shared expert, or the dense FFN."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import SHARED_MATRICES
from runtime.functions.experts import experts
from runtime.functions.feed_forward import feed_forward
from runtime.functions.linear import swiglu
from runtime.functions.norms import norm
from runtime.functions.router import route
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace


def ffn(
    arch: Architecture,
    w: LayerWeights,
    hidden: Tensor,
    ws: Workspace,
    routing: Callable[[Tensor], None] | None = None,
    partial: bool = False,
    lengths: Sequence[int] | None = None,
) -> None:
    """Adds the FFN's output to hidden (t, H).

    `routing` is given the experts of each token, ids (t, k), before they compute; ids are valid
    until this function returns. With `partial` hidden is overwritten: under tensor parallelism one
    rank keeps the residual and the others give their part of the sum. `lengths`: see `route`.
    """
    if not w.is_moe:
        _dense(arch, w, hidden, ws, partial)
        return
    with ws.scope():
        normed, ids, gates = route(arch, w, hidden, ws, lengths)
        if routing is not None:
            routing(ids)
        total = ws.take(hidden.shape, hidden.dtype).zero_()
        experts(arch, w, normed, ids, gates, total, ws)
        shared(arch, w, normed, total, ws)
        if partial:
            hidden.copy_(total)
        else:
            hidden.add_(total)


def shared(arch: Architecture, w: LayerWeights, normed: Tensor, out: Tensor, ws: Workspace) -> None:
    """Adds the gated shared expert of normed (t, H) to out (t, H), if the layer has one."""
    if SHARED_MATRICES[0] not in w.matrices:
        return
    step = _step(arch.shared_width, normed, ws)
    for start in range(0, len(normed), step):
        rows = slice(start, start + step)
        with ws.scope():
            x = normed[rows]
            result, inner = _take(arch.shared_width, x, ws)
            swiglu(w, SHARED_MATRICES, x, inner, result)
            gate = torch.mv(x, w.vectors["shared_expert_gate"]).sigmoid_().unsqueeze(1)
            out[rows].add_(result.mul_(gate))


def _dense(arch: Architecture, w: LayerWeights, hidden: Tensor, ws: Workspace, over: bool) -> None:
    width = arch.ffn_width(is_moe=False)
    step = _step(width, hidden, ws)
    for start in range(0, len(hidden), step):
        rows = hidden[start : start + step]
        with ws.scope():
            x = ws.take(rows.shape, rows.dtype)
            norm(arch, rows, w.vectors["ffn_norm"], x)
            feed_forward(arch, w, x, width, x, ws)
            if over:
                rows.copy_(x)
            else:
                rows.add_(x)


def _step(width: int, x: Tensor, ws: Workspace) -> int:
    """Tokens whose SwiGLU of this width fits the workspace."""
    item = x.element_size()
    return ws.rows(x.shape[1] * item, width * item, width * item, limit=max(1, len(x)))


def _take(width: int, like: Tensor, ws: Workspace) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Memory for the output (t, H) of a SwiGLU, and for its two inner tensors."""
    inner = [ws.take((len(like), width), like.dtype) for _ in range(2)]
    return ws.take(like.shape, like.dtype), (inner[0], inner[1])
