"""From tokens to hidden states, and from hidden states to logits."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.norms import norm
from runtime.workspace import Workspace


def embed(table: Tensor, ids: Tensor, out: Tensor) -> None:
    """out (t, H) = rows `ids` (t,) of the token embeddings (vocab_size, H)."""
    torch.index_select(table, 0, ids, out=out)


def head(
    arch: Architecture,
    table: Tensor,
    final_norm: Tensor,
    rows: Tensor,
    logits: Tensor,
    ws: Workspace,
) -> None:
    """logits (n, r) of hidden states (n, H), for the r tokens whose rows are in table (r, H).

    Logits have the model's dtype.
    """
    step = ws.rows(rows.shape[1] * rows.element_size(), limit=max(1, len(rows)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        with ws.scope():
            normed = ws.take(part.shape, part.dtype)
            norm(arch, part, final_norm, normed)
            if arch.head_scale != 1.0:
                normed.mul_(arch.head_scale)
            torch.mm(normed, table.t(), out=logits[start : start + step])
