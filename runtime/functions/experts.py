"""The routed experts: each token through the k that it takes, summed by their gates."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.feed_forward import feed_forward
from runtime.functions.grouped import grouped_experts, stacks
from runtime.functions.linear import row_blocks
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace
from schedules.choices import SKIPPED


def experts(
    arch: Architecture,
    w: LayerWeights,
    normed: Tensor,
    ids: Tensor,
    gates: Tensor,
    out: Tensor,
    ws: Workspace,
) -> None:
    """Adds to out (t, H) what the experts `ids` (t, k) make of normed (t, H), times `gates` (t, k).

    Where the device has a grouped GEMM for this dtype and each matrix lies in one piece with all
    experts, it takes three such products. Otherwise the tokens are sorted by expert and each
    expert that is touched takes three plain ones; then only its rows need be at hand, and on CUDA
    the host waits for the number of tokens of each expert (one event), as any such loop must.
    Choices that are skipped (`SKIPPED`) add nothing. Both are deterministic: an expert sees a token
    once, and experts follow one another in order.
    """
    whole = stacks(arch, w, normed)
    if whole is not None:
        grouped_experts(whole, normed, ids, gates, out, ws)
        return
    k, width = ids.shape[1], arch.ffn_width(is_moe=True)
    order = torch.argsort(ids.view(-1), stable=True)
    skipped, *counts = _on_host(_counts(ids, arch.spec.n_experts))
    tokens = order.div(k, rounding_mode="floor")
    weights = gates.view(-1, 1).index_select(0, order)
    hidden_bytes, item = normed.shape[1] * normed.element_size(), normed.element_size()
    step = ws.rows(hidden_bytes, width * item, width * item, limit=max(1, *counts))
    start = skipped  # they are sorted before all experts
    for expert, count in enumerate(counts):
        for first in range(start, start + count, step):
            rows = slice(first, min(first + step, start + count))
            _one(arch, w, expert, normed, tokens[rows], weights[rows], out, ws)
        start += count


def _one(
    arch: Architecture,
    w: LayerWeights,
    expert: int,
    normed: Tensor,
    tokens: Tensor,
    gates: Tensor,
    out: Tensor,
    ws: Workspace,
) -> None:
    """Adds one expert's share of some of its tokens, given by their indices, to out (t, H)."""
    n, width = len(tokens), arch.ffn_width(is_moe=True)
    with ws.scope():
        x = ws.take((n, normed.shape[1]), normed.dtype)
        torch.index_select(normed, 0, tokens, out=x)
        feed_forward(arch, w, x, width, x, ws, expert)
        for rows in row_blocks(n, x.shape[1] * 4):
            torch.mul(x[rows], gates[rows], out=x[rows])
        out.index_add_(0, tokens, x)  # no token twice: the same sum in whatever order


def _counts(ids: Tensor, n_experts: int) -> Tensor:
    """Choices that are skipped, and tokens of each expert, (1 + n_experts,); integers, so the
    order of the additions is no matter."""
    flat = ids.view(-1) - SKIPPED
    zeros = torch.zeros(1 + n_experts, dtype=torch.int64, device=ids.device)
    return zeros.scatter_add_(0, flat, torch.ones_like(flat))


def _on_host(counts: Tensor) -> list[int]:
    """The counts as integers; on CUDA the one place where the host waits for the device."""
    if counts.device.type != "cuda":
        return counts.tolist()
    host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
    host.copy_(counts, non_blocking=True)
    event = torch.cuda.Event(blocking=True)  # spinning would take a core from CPU attention
    event.record(torch.cuda.current_stream(counts.device))
    event.synchronize()
    return host.tolist()
