"""The critical path on a timeline: outlines around the tasks that are on it."""

import numpy as np
import plotly.graph_objects as go

from reports.bars import BAR, used_streams
from schedules.timeline import Timeline

OUTLINE = "#111111"
NOTE = "Outlined: the critical path; tasks in a row on one stream share an outline."


def outline(critical: Timeline, timeline: Timeline) -> go.Scatter:
    """A trace for the figure of `timeline`, whose tasks on the critical path are `critical`."""
    lanes = {stream: lane for lane, stream in enumerate(used_streams(timeline))}
    x, y = [], []
    for stream, lane in lanes.items():
        top, bottom = lane - BAR / 2, lane + BAR / 2
        for start_s, end_s in runs(critical, stream):
            x += [start_s, end_s, end_s, start_s, start_s, np.nan]
            y += [top, top, bottom, bottom, top, np.nan]
    return go.Scatter(
        x=np.array(x, dtype=np.float64),
        y=np.array(y, dtype=np.float64),
        mode="lines",
        name="critical path",
        line={"color": OUTLINE, "width": 1.5},
        hoverinfo="skip",
    )


def runs(critical: Timeline, stream: str) -> list[tuple[float, float]]:
    """Start and end, in seconds, of tasks of a stream that follow each other without a gap."""
    frame = critical.frame
    own = frame[(frame["stream"] == stream) & (frame["end_s"] > frame["start_s"])]
    own = own.sort_values("start_s", kind="stable")
    start_s, end_s = own["start_s"].to_numpy(), own["end_s"].to_numpy()
    new = np.ones(len(own), dtype=bool)
    new[1:] = start_s[1:] > end_s[:-1]
    last = np.append(new[1:], True) if len(own) else new
    return list(zip(start_s[new].tolist(), end_s[last].tolist(), strict=True))
