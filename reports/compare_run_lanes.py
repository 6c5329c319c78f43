"""Both clocks of a run as one picture: each stream's measured lane above its simulated one."""

import pandas as pd
import plotly.graph_objects as go

from reports import units
from reports.bars import used_streams
from reports.lanes import Panel, make_panel
from reports.page import without_tasks
from reports.palette import op_colours
from reports.timeline_figure import stacked_figure
from reports.timeline_layout import FAINT
from reports.timeline_page import PAGE_TASKS
from reports.windows import MANY_TASKS, Window, default_window, whole
from schedules.timeline import Timeline

CLOCKS = ("measured", "simulated")
STEP, LAYERS, PREFILL, RUN = "One step", "Two layers", "Prefill", "Whole run"
BAND = "#f3f5f7"


def beside(measured: Timeline, simulated: Timeline) -> Timeline:
    """One timeline with two streams for each: `gpu measured`, `gpu simulated`.

    A stream on which nothing took time on either clock is left out.
    """
    pair = (measured, simulated)
    used = {stream for timeline in pair for stream in used_streams(timeline)}
    frames = []
    for clock, timeline in zip(CLOCKS, pair, strict=True):
        rows = timeline.frame[timeline.frame["stream"].isin(used)]
        frames.append(rows.assign(stream=rows["stream"] + f" {clock}"))
    streams = [
        f"{stream} {clock}" for stream in measured.streams if stream in used for clock in CLOCKS
    ]
    return Timeline(pd.concat(frames, ignore_index=True), tuple(streams), measured.name)


def middle_step(timeline: Timeline) -> Window:
    """From the first start to the last end of the middle decode step (prefill without one)."""
    steps = sorted(set(timeline.frame.loc[timeline.frame["step"] >= 1, "step"])) or [0]
    return _span(timeline.frame[timeline.frame["step"] == steps[len(steps) // 2]])


def lanes(measured: Timeline, simulated: Timeline) -> tuple[go.Figure, Panel]:
    """The picture and what the page holds of it.

    It is 0 where the middle decode step begins, on both clocks, and opens on that step, or on two
    of its layers where it has too many tasks to be read.
    """
    both = beside(measured, simulated)
    step = middle_step(both)
    many = len(both.window(*step)) > MANY_TASKS
    opening = default_window(both) if many else step
    panel = make_panel(both, opening, PAGE_TASKS, origin_s=step[0])
    parts = {
        **({LAYERS: opening} if many else {}),
        STEP: step,
        PREFILL: _span(both.frame[both.frame["step"] == 0]),
        RUN: whole(both),
    }
    views = {name: (a - step[0], b - step[0]) for name, (a, b) in parts.items()}
    window = next(iter(views.values()))
    figure = stacked_figure([without_tasks(panel)], window, views, op_colours([measured]))
    return _paired(figure, both), panel


def _span(rows: pd.DataFrame) -> Window:
    return float(rows["start_s"].min()), float(rows["end_s"].max())


def _paired(figure: go.Figure, both: Timeline) -> go.Figure:
    """Says the stream's name once for its two lanes, and sets every other pair on a band."""
    streams = used_streams(both)
    names = [stream.rpartition(" ")[0] for stream in streams]
    words = []
    for i, stream in enumerate(streams):
        name, _, clock = stream.rpartition(" ")
        first = i == 0 or names[i - 1] != name
        head = f"<b>{units.plain(name)}</b>  " if first else ""
        words.append(f"{head}<span style='color:{FAINT}'>{clock}</span>")
    figure.update_yaxes(ticktext=words)
    for number, name in enumerate(dict.fromkeys(names)):
        if number % 2:
            own = [i for i, other in enumerate(names) if other == name]
            edges = {"y0": own[0] - 0.5, "y1": own[-1] + 0.5, "x0": 0, "x1": 1}
            figure.add_shape(
                type="rect", xref="paper", fillcolor=BAND, line_width=0, layer="below", **edges
            )
    return figure
