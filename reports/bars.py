"""What a lane shows: single tasks from near, shares of time per op from afar."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from schedules.timeline import Timeline

BAR = 0.8
"""Height of a bar, in lanes."""

AMOUNTS = ("bytes", "link_bytes", "flops")

VISIBLE = 1e-4
"""Smaller shares of an interval are less than a hundredth of a pixel."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """All tasks of one op on one stream, by start; `lane` counts from the top."""

    op: str
    stream: str
    lane: int
    tasks: pd.DataFrame


def used_streams(timeline: Timeline) -> list[str]:
    """The streams that ran tasks that took time, in the order of lanes."""
    frame = timeline.frame
    used = set(frame.loc[frame["end_s"] > frame["start_s"], "stream"].unique())
    return [stream for stream in timeline.streams if stream in used]


def series_of(timeline: Timeline) -> list[Series]:
    """The series of a timeline, from the top lane down; tasks that take no time are left out."""
    lanes = {stream: lane for lane, stream in enumerate(used_streams(timeline))}
    frame = timeline.frame[timeline.frame["end_s"] > timeline.frame["start_s"]]
    frame = frame.sort_values("start_s", kind="stable")
    found = []
    for stream, lane in lanes.items():
        own = frame[frame["stream"] == stream]
        for op in sorted(own["op"].unique()):
            found.append(Series(op, stream, lane, own[own["op"] == op]))
    return found


def within(tasks: pd.DataFrame, window: tuple[float, float]) -> pd.DataFrame:
    """The tasks that run at some time in the window (seconds)."""
    return tasks[(tasks["end_s"] > window[0]) & (tasks["start_s"] < window[1])]


def busy_until(tasks: pd.DataFrame, moments: Numbers) -> Numbers:
    """Seconds for which the tasks have run by each of `moments` (seconds).

    >>> tasks = pd.DataFrame({"start_s": [0.0, 2.0], "end_s": [1.0, 4.0]})
    >>> busy_until(tasks, np.array([0.5, 1.5, 3.0, 9.0])).tolist()
    [0.5, 1.0, 2.0, 3.0]
    """
    return _elapsed(tasks["start_s"], moments) - _elapsed(tasks["end_s"], moments)


def _elapsed(since: "pd.Series[float]", moments: Numbers) -> Numbers:
    """Sum of the times from each of `since` to the moment, those to come counting nothing."""
    origin = moments[0]
    ordered = np.sort(since.to_numpy()) - origin
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    begun = np.searchsorted(ordered, moments - origin)
    result: Numbers = begun * (moments - origin) - sums[begun]
    return result


def shares(series: Sequence[Series], edges: Numbers) -> list[pd.DataFrame]:
    """For each series, one bar per interval of `edges` (seconds, ascending) in which it ran.

    Columns: `start` and `length` (seconds), `height` (lanes; `BAR` times the share of the interval
    that the op ran), `offset` of the bar's edge from the middle of its lane, `count` of the tasks
    that started in it. Bars of one lane stand upon each other, so that the height that is left
    free is the idle share.
    """
    filled: dict[int, Numbers] = {}
    length = np.diff(edges)
    result = []
    for item in series:
        share = np.clip(np.diff(busy_until(item.tasks, edges)) / length, 0.0, 1.0)
        below = filled.get(item.lane, np.zeros_like(share))
        share = np.minimum(share, 1.0 - below)
        filled[item.lane] = below + share
        starts = np.searchsorted(item.tasks["start_s"].to_numpy(), edges)
        bars = {
            "start": edges[:-1],
            "length": length,
            "height": BAR * share,
            "offset": BAR * (0.5 - below - share),
            "count": np.diff(starts),
        }
        result.append(pd.DataFrame(bars)[(share > VISIBLE) | (bars["count"] > 0)])
    return result
