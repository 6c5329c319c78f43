"""Sparsemax: the nearest point of the probability simplex (Martins and Astudillo, arXiv
1602.02068, algorithm 1)."""

import torch
from torch import Tensor


def sparsemax(scores: Tensor) -> Tensor:
    """Probabilities along the last axis, many of them exactly 0; shape of `scores`.

    They minimise the Euclidean distance to the scores. A score of -inf gets probability 0.

    >>> sparsemax(torch.tensor([[0.1, 1.1, 0.3], [3.0, 1.0, -1.0]]))
    tensor([[0.0000, 0.9000, 0.1000],
            [1.0000, 0.0000, 0.0000]])
    """
    ordered = scores.sort(dim=-1, descending=True).values
    finite = ordered.masked_fill(ordered.isinf(), 0)
    ranks = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    sums = finite.cumsum(dim=-1)
    support = (1 + ranks * ordered > sums).sum(dim=-1, keepdim=True)
    threshold = (sums.gather(-1, support - 1) - 1) / support
    return (scores - threshold).clamp(min=0)
