"""Which experts each token takes, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.linear import linear
from runtime.functions.norms import norm
from runtime.functions.switch_router import choose_one, skip_overflow
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace
from schedules.choices import SKIPPED


class Routed(NamedTuple):
    """normed (t, H): what the experts read; ids (t, k) int64 and gates (t, k): the experts that
    each token takes, the most probable first, and their weights in `arch.gate_dtype`. A choice
    that the model skips has the id `SKIPPED` and weight 0."""

    normed: Tensor
    ids: Tensor
    gates: Tensor


def route(
    arch: Architecture,
    w: LayerWeights,
    hidden: Tensor,
    ws: Workspace,
    lengths: Sequence[int] | None = None,
) -> Routed:
    """Norm, router, softmax and choice of the k most probable experts of hidden (t, H).

    The result lies in the workspace, until the caller's scope ends. `lengths` (sum t) are those of
    the sequences that tokens belong to, one token each by default: in Switch Transformers an expert
    takes a limited number of tokens of each, and the gates of the rest are 0.
    """
    t, k, n = len(hidden), arch.spec.top_k, arch.spec.n_experts
    normed = ws.take(hidden.shape, hidden.dtype)
    norm(arch, hidden, w.vectors["ffn_norm"], normed)
    ids, gates = ws.take((t, k), torch.int64), ws.take((t, k), arch.gate_dtype)
    sizes = [n * hidden.element_size(), n * 4, n * 4, k * 4]  # at most, as `_choose` takes them
    if arch.encoder_decoder is not None:
        sizes = [hidden.shape[1] * 4, *sizes]
    step = ws.rows(*sizes, limit=max(1, t))
    for start in range(0, t, step):
        rows = slice(start, start + step)
        with ws.scope():
            if arch.encoder_decoder is not None:
                choose_one(w, normed[rows], ids[rows], gates[rows], n, ws)
                continue
            logits = ws.take((len(hidden[rows]), n), hidden.dtype)
            linear(w, "router", normed[rows], logits)
            _choose(arch, logits, ids[rows], gates[rows], ws)
    if arch.encoder_decoder is not None and lengths is not None:
        skip_overflow(ids, gates, lengths, arch.encoder_decoder.expert_capacity, n)
    return Routed(normed, ids, gates)


def _choose(arch: Architecture, logits: Tensor, ids: Tensor, gates: Tensor, ws: Workspace) -> None:
    """The k largest of the probabilities of logits (t, n_experts), normalised if the model does."""
    dtype = arch.router_dtype
    if logits.dtype != dtype:
        logits = ws.take(logits.shape, dtype).copy_(logits)
    probabilities = ws.take(logits.shape, dtype)
    torch.softmax(logits, dim=1, out=probabilities)
    largest = ws.take(ids.shape, dtype)
    torch.topk(probabilities, ids.shape[1], dim=1, out=(largest, ids))
    if arch.gate_norm is not None:
        size = torch.linalg.vector_norm(largest, ord=arch.gate_norm, dim=1, keepdim=True)
        largest.div_(size)
    if arch.spec.skip_below:
        skip_small(ids, largest, arch.spec.skip_below)
    gates.copy_(largest)


def skip_small(ids: Tensor, gates: Tensor, below: float) -> None:
    """Drop choices whose gate is below a share of the first one's; the rest make up for them.

    Not All Experts Are Equal (arXiv 2402.14800, section 3.3): with two experts whose gates sum to
    1, the first then has 1. In general the sum of the gates stays as it was.
    """
    skipped = gates < below * gates[:, :1]
    total = gates.sum(dim=1, keepdim=True)
    ids.masked_fill_(skipped, SKIPPED)
    gates.masked_fill_(skipped, 0)
    gates.mul_(total / gates.sum(dim=1, keepdim=True))
