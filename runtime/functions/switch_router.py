"""The router of Switch Transformers (arXiv 2101.03961, section 2), as transformers computes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.pieces import LayerWeights
from runtime.workspace import Workspace


def choose_one(
    w: LayerWeights, normed: Tensor, ids: Tensor, gates: Tensor, n_experts: int, ws: Workspace
) -> None:
    """The most probable expert of normed (t, H): ids and gates (t, 1).

    The router works in float32. Its probabilities are rounded to the dtype of `gates` before they
    are compared; of equal ones the first expert is taken.
    """
    t = len(normed)
    x = normed
    if x.dtype != torch.float32:
        x = ws.take(normed.shape, torch.float32).copy_(normed)
    logits = ws.take((t, n_experts), torch.float32)
    for start, stop, rows in w.rows("router", 0, n_experts):
        torch.mm(x, rows.t().to(torch.float32), out=logits[:, start:stop])
    if "router_bias" in w.vectors:
        logits.add_(w.vectors["router_bias"])
    probabilities = ws.take(logits.shape, torch.float32)
    torch.softmax(logits, dim=1, out=probabilities)
    if gates.dtype != torch.float32:
        probabilities = ws.take(logits.shape, gates.dtype).copy_(probabilities)
    torch.max(probabilities, dim=1, keepdim=True, out=(gates, ids))


def skip_overflow(
    ids: Tensor, gates: Tensor, lengths: Sequence[int], capacity: int, n_experts: int
) -> None:
    """Sets gates (t, 1) to 0 where an expert has had `capacity` tokens of the sequence before.

    Sequences of `lengths` follow one another. What an expert skips passes by the layer's FFN.

    >>> gates = torch.ones(6, 1)
    >>> skip_overflow(torch.tensor([[7], [7], [2], [7], [7], [7]]), gates, [4, 2], 2, 8)
    >>> gates.view(-1).tolist()
    [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    """
    experts = torch.arange(n_experts, device=ids.device)
    start = 0
    for length in lengths:
        if length > capacity:  # fewer tokens cannot be too many for an expert
            rows = slice(start, start + length)
            place = (ids[rows] == experts).cumsum(0, dtype=torch.int32).gather(1, ids[rows])
            gates[rows].mul_(place <= capacity)
        start += length
