"""Which part of a timeline is worth seeing first."""

import numpy as np
import pandas as pd

from schedules.errors import BadInput
from schedules.timeline import Timeline

Window = tuple[float, float]
"""Start and end, in seconds."""

MANY_TASKS = 600  # above this a window no longer reads as single bars on 1280 pixels
LAYERS = 2


def whole(timeline: Timeline) -> Window:
    """From the first start to the last end.

    Raises `BadInput` for a timeline without tasks that take time.
    """
    frame = timeline.frame
    if not (frame["end_s"] > frame["start_s"]).any():
        raise BadInput(f"timeline '{timeline.name}' has no tasks that take time: nothing to draw")
    return float(frame["start_s"].min()), float(frame["end_s"].max())


def steady_step(timeline: Timeline) -> Window:
    """The middle decode step (prefill, if nothing was decoded) on the stream that computes most."""
    rows = _leading(_middle_step(timeline.frame))
    start_s, end_s = float(rows["start_s"].min()), float(rows["end_s"].max())
    return (start_s, end_s) if end_s > start_s else whole(timeline)


def default_window(timeline: Timeline) -> Window:
    """About two layers in the middle of the middle decode step: the steady state.

    A layer begins when the stream that computes most begins it. Where two layers are too much to
    read, or tasks have no layers, the window holds the `MANY_TASKS` tasks around that moment.
    Raises `BadInput` for a timeline without tasks.
    """
    whole(timeline)
    window = _two_layers(_middle_step(timeline.frame))
    if window is None:
        window = steady_step(timeline)
    many = len(timeline.window(*window).frame) > MANY_TASKS
    return around(timeline, window, MANY_TASKS) if many else window


def around(timeline: Timeline, window: Window, limit: int) -> Window:
    """The part of the timeline in whose middle `window` lies and in which `limit` tasks start."""
    starts = np.sort(timeline.frame["start_s"].to_numpy())
    if len(starts) <= limit:
        return whole(timeline)
    middle = int(np.searchsorted(starts, sum(window) / 2))
    first = min(max(0, middle - limit // 2), len(starts) - limit)
    last = first + limit
    return float(starts[first]), float(starts[last] if last < len(starts) else whole(timeline)[1])


def _middle_step(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the middle decode step, or all rows when there is none."""
    steps = np.unique(frame.loc[frame["step"] >= 1, "step"])
    return frame[frame["step"] == steps[len(steps) // 2]] if len(steps) else frame


def _leading(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the stream that computes most, or that works longest where nothing computes."""
    effort = rows["flops"] if rows["flops"].sum() > 0 else rows["end_s"] - rows["start_s"]
    return rows[rows["stream"] == effort.groupby(rows["stream"]).sum().idxmax()]


def _two_layers(rows: pd.DataFrame) -> Window | None:
    """From the start of the middle layer to that of the second layer after it, if it has layers."""
    placed = rows[rows["layer"] >= 0]
    if placed.empty:
        return None
    own = _leading(placed)
    begins = own.groupby("layer")["start_s"].min().sort_values().to_numpy()
    first = min(len(begins) // 2, max(0, len(begins) - 1 - LAYERS))
    last = first + LAYERS
    end_s = begins[last] if last < len(begins) else own["end_s"].max()
    return (float(begins[first]), float(end_s)) if end_s > begins[first] else None
