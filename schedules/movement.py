"""What a timeline moves, and how much of the moving nothing else hides.

Rows are given as columns by name: a mapping to arrays, or a timeline's data frame.
"""

from collections.abc import Collection, Mapping
from math import fsum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd  # slow to import; who simulates without a timeline needs none

    Columns = Mapping[str, Any] | pd.DataFrame

COMPUTES = ("gpu", "cpu", "peer")  # streams, by the beginning of their names
COPIES = ("h2d", "d2h", "pin", "disk")


def moved_bytes(rows: "Columns") -> dict[str, float]:
    """Bytes moved over links by operation, largest first; needs the columns op and link_bytes.

    >>> moved_bytes({"op": ["load", "compute", "load"], "link_bytes": [2.0, 0.0, 3.0]})
    {'load': 5.0}
    """
    ops, sizes = np.asarray(rows["op"], dtype=object), np.asarray(rows["link_bytes"])
    moving = sizes > 0
    parts: dict[str, list[float]] = {}
    for op, size in zip(ops[moving].tolist(), sizes[moving].tolist(), strict=True):
        parts.setdefault(str(op), []).append(size)
    sums = {op: fsum(parts[op]) for op in sorted(parts)}
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def exposed_transfer_s(rows: "Columns") -> float:
    """Seconds in which something is copied and nothing is computed.

    >>> stream, start, end = ["h2d", "gpu", "gpu"], [0.0, 1.0, 4.0], [3.0, 2.0, 5.0]
    >>> exposed_transfer_s({"stream": stream, "start_s": start, "end_s": end})
    2.0
    """
    streams = rows["stream"]
    copying, computing = (
        np.array([name.startswith(prefixes) for name in streams], dtype=np.bool_)
        for prefixes in (COPIES, COMPUTES)
    )
    return exposed_s(np.asarray(rows["start_s"]), np.asarray(rows["end_s"]), copying, computing)


def exposed_s(
    start: np.ndarray, end: np.ndarray, copying: np.ndarray, computing: np.ndarray
) -> float:
    """The same, of tasks that are copies, or compute, or neither; all of shape (n,)."""
    copies, computes = np.flatnonzero(copying), np.flatnonzero(computing)
    times = np.concatenate([start[copies], end[copies], start[computes], end[computes]])
    order = np.argsort(times, kind="stable")  # fast, because each stream goes forward in time

    def running(first: int, count: int) -> np.ndarray:
        change = np.zeros(len(times), dtype=np.int8)
        change[first : first + count], change[first + count : first + 2 * count] = 1, -1
        return np.cumsum(change[order], dtype=np.int32)[:-1]

    copied, computed = running(0, len(copies)), running(2 * len(copies), len(computes))
    return float(np.diff(times[order])[(copied > 0) & (computed == 0)].sum())


def moe_block_s(rows: "Columns", layers: Collection[int]) -> float | None:
    """Mean latency of these layers over all decode steps, None without any.

    A layer's block, attention included, is from the end of the layer before (or its own first
    start) to its last end.
    """
    step, layer = np.asarray(rows["step"]), np.asarray(rows["layer"])
    decode = (step > 0) & (layer >= 0)
    if not layers or not decode.any():
        return None
    steps, row = np.unique(step[decode], return_inverse=True)
    place = row, layer[decode]
    shape = len(steps), 1 + max(*layers, int(place[1].max()))
    starts, ends = np.full(shape, np.inf), np.full(shape, -np.inf)
    np.minimum.at(starts, place, np.asarray(rows["start_s"])[decode])
    np.maximum.at(ends, place, np.asarray(rows["end_s"])[decode])
    before = starts.copy()
    before[:, 1:] = np.where(np.isinf(ends[:, :-1]), starts[:, 1:], ends[:, :-1])
    spans = (ends - before)[:, list(layers)]
    spans = spans[np.isfinite(spans)]  # without the layers that a step does not have
    return float(np.mean(spans)) if len(spans) else None
