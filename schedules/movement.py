"""What a timeline moves, and how much of the moving nothing else hides."""

from collections.abc import Collection

import numpy as np
import pandas as pd

COMPUTES = ("gpu", "cpu", "peer")  # streams, by the beginning of their names
COPIES = ("h2d", "d2h", "pin", "disk")


def moved_bytes(frame: pd.DataFrame) -> dict[str, float]:
    """Bytes moved over links by operation, largest first; `frame` has a timeline's columns."""
    moving = frame[frame["link_bytes"] > 0]
    sums = moving.groupby("op")["link_bytes"].sum().sort_values(ascending=False, kind="stable")
    return {str(op): float(size) for op, size in sums.items()}


def exposed_transfer_s(frame: pd.DataFrame) -> float:
    """Seconds in which something is copied and nothing is computed.

    >>> rows = [("h2d", 0.0, 3.0), ("gpu", 1.0, 2.0), ("gpu", 4.0, 5.0)]
    >>> exposed_transfer_s(pd.DataFrame(rows, columns=["stream", "start_s", "end_s"]))
    2.0
    """
    marks = [_marks(frame, prefixes) for prefixes in (COPIES, COMPUTES)]
    times = np.unique(np.concatenate([time for time, _ in marks]))
    if len(times) < 2:
        return 0.0
    copying, computing = (_running(times, *mark) for mark in marks)
    return float(np.diff(times)[(copying > 0) & (computing == 0)].sum())


def moe_block_s(frame: pd.DataFrame, layers: Collection[int]) -> float | None:
    """Mean latency of these layers over all decode steps, None without any.

    A layer's block, attention included, is from the end of the layer before (or its own first
    start) to its last end.
    """
    decode = frame[(frame["step"] > 0) & (frame["layer"] >= 0)]
    spans = []
    for _, rows in decode.groupby("step"):
        ends, starts = (
            getattr(rows.groupby("layer")[name], of)()
            for name, of in (("end_s", "max"), ("start_s", "min"))
        )
        known = [layer for layer in layers if layer in ends.index]
        spans += [ends[i] - (ends[i - 1] if i - 1 in ends.index else starts[i]) for i in known]
    return float(np.mean(spans)) if spans else None


def _marks(frame: pd.DataFrame, prefixes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Times at which tasks of these streams start (+1) and end (-1)."""
    rows = frame[frame["stream"].str.startswith(prefixes)]
    start, end = rows["start_s"].to_numpy(float), rows["end_s"].to_numpy(float)
    return np.concatenate([start, end]), np.repeat([1, -1], len(rows))


def _running(times: np.ndarray, marks: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How many tasks run between each time and the next."""
    change = np.zeros(len(times), dtype=np.int64)
    np.add.at(change, np.searchsorted(times, marks), steps)
    return np.cumsum(change)[:-1]
