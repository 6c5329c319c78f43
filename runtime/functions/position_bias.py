"""T5's relative position bias: a learned number per head, added to a score, for each distance.

Distances are grouped in buckets (T5, arXiv 1910.10683, section 2.1): near ones have one each, far
ones share them by their logarithm, and all beyond a maximum have the last. The first layer of a
stack holds the numbers, and all its layers use them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bias_by_distance(
    table: Tensor, first: int, last: int, bidirectional: bool, max_distance: int
) -> Tensor:
    """(heads, last - first + 1): what is added for keys that are `first` to `last` after the query.

    table (buckets, heads); negative numbers stand for keys before the query. In the encoder
    (`bidirectional`) either side has half of the buckets.
    """
    relative = torch.arange(first, last + 1)
    found = buckets(relative, len(table), bidirectional, max_distance)
    return table.index_select(0, found.to(table.device)).t().contiguous()


def buckets(relative: Tensor, count: int, bidirectional: bool, max_distance: int) -> Tensor:
    """Bucket of each key that is `relative` (int64) after its query, as transformers counts them.

    >>> buckets(torch.tensor([-200, -9, -2, 0, 1, 3]), 8, True, 20).tolist()
    [3, 3, 2, 0, 5, 6]
    """
    base = torch.zeros_like(relative)
    if bidirectional:
        count //= 2
        base = (relative > 0) * count
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = count // 2
    octaves = torch.log(distance.float() / exact) / math.log(max_distance / exact)
    far = (exact + (octaves * (count - exact)).to(torch.int64)).clamp(max=count - 1)
    return base + torch.where(distance < exact, distance, far)


def bias_of_queries(by_distance: Tensor, first: int, stop: int, n_keys: int) -> Tensor:
    """(heads, stop - first, n_keys): the bias of queries [first, stop) with keys [0, n_keys).

    `by_distance` (heads, 2 n - 1) has the distances from -(n - 1) to n - 1, for n >= n_keys.
    """
    middle = by_distance.shape[1] // 2  # distance 0
    windows = by_distance.unfold(1, n_keys, 1)  # window i has the distances from i - middle on
    return windows[:, middle - stop + 1 : middle - first + 1].flip(1)
