"""The timeline as a figure: a lane per stream, a bar per task, and the gaps are the bubbles."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from reports.bars import used_streams
from reports.lanes import Panel, make_panel, traces
from reports.palette import op_colours
from reports.timeline_layout import (
    BELOW_PX,
    FAINT,
    LANE_PX,
    TITLE_PX,
    add_legend,
    lane_axis,
    page_layout,
    time_axis,
    title_above,
)
from reports.units import plain
from reports.windows import Window, default_window, steady_step, whole
from schedules.timeline import Timeline

SINGLE_TASKS = 4000
"""Tasks that a figure draws one by one; with more, a browser takes seconds to redraw."""


def timeline_figure(
    timeline: Timeline,
    window: Window | None = None,
    limit: int = SINGLE_TASKS,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """A figure that opens on `window` (seconds; by default `default_window(timeline)`).

    It can be dragged and zoomed over the whole run. About `limit` tasks around the window are
    drawn one by one; for the rest stand, per lane, the shares of time of each op, and the caption
    says so. Raises `BadInput` for a timeline without tasks.
    """
    window = window or default_window(timeline)
    panel = make_panel(timeline, window, limit, title=f"<b>{plain(timeline.name)}</b>")
    figure = stacked_figure(
        [panel], window, views(timeline, window), colours or op_colours([timeline])
    )
    figure.update_layout(uniformtext={"mode": "hide", "minsize": 9})  # when zoomed out
    figure.update_traces(constraintext="inside")
    return _write_below(figure, notes([panel]))


def stacked_figure(
    panels: Sequence[Panel],
    window: Window,
    views: Mapping[str, Window],
    colours: Mapping[str, str],
) -> go.Figure:
    """Panels below each other on one time axis, which opens on `window` (seconds on that axis).

    `views` are the buttons above the figure: a label and the part of the axis that it shows.
    """
    figure = go.Figure()
    heights = [TITLE_PX + LANE_PX * len(used_streams(p.timeline)) for p in panels]
    top = total = sum(heights)
    view_s = window[1] - window[0]
    for i, (panel, height) in enumerate(zip(panels, heights, strict=True)):
        axis = f"y{i + 1}" if i else "y"
        figure.add_traces(traces(panel, axis, dict(colours), view_s))
        domain = [(top - height) / total, (top - TITLE_PX) / total]
        figure.update_layout({f"yaxis{i + 1}": lane_axis(panel.timeline, domain)})
        if panel.title:
            figure.add_annotation(**title_above(panel.title, (top - TITLE_PX) / total))
        top -= height
    add_legend(figure, panels, colours)
    figure.update_layout(page_layout(panels, total, views))
    figure.update_xaxes(time_axis(panels, window))
    return figure


def views(timeline: Timeline, window: Window, origin_s: float = 0.0) -> dict[str, Window]:
    """The parts of the axis that buttons show, by label; the axis is 0 at `origin_s`."""
    parts = {
        "Steady state": window,
        "One step": steady_step(timeline),
        "Whole run": whole(timeline),
    }
    return {name: (start - origin_s, end - origin_s) for name, (start, end) in parts.items()}


def notes(panels: Sequence[Panel], zooming: bool = False) -> list[str]:
    """Sentences that say what the picture shows and what it leaves out.

    `zooming`: the page draws anew what is in view, at the grain that suits it.
    """
    parts = [
        "Numbers in bars are micro-batches, L and a number is a layer.",
        "Per cent: share of the middle decode step for which the stream works.",
    ]
    total = sum(len(p.timeline.frame) for p in panels)
    single = sum(len(p.timeline.window(*p.detail).frame) for p in panels)
    afar = "bar heights are the shares of time of each op"
    if single < total:
        start = "From afar, and beyond" if zooming else "Beyond"
        parts.append(
            f"{start} the {single:,} of {total:,} tasks around the opening view, which are held "
            f"one by one, {afar}."
        )
    elif zooming:
        parts.append(f"From afar, {afar}.")
    if not zooming:
        parts.append("Tasks thinner than a pixel are drawn a pixel wide.")
    if any(len(used_streams(p.timeline)) < len(p.timeline.streams) for p in panels):
        parts.append("Streams that ran nothing are left out.")
    instant = sum(_instant(p.timeline) for p in panels)
    if instant:
        verb = "task takes" if instant == 1 else "tasks take"
        parts.append(f"{instant:,} {verb} no time and cannot be seen.")
    return parts


def _write_below(figure: go.Figure, sentences: Sequence[str]) -> go.Figure:
    """Add sentences under the legend, one a line."""
    drawn_px = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    figure.add_annotation(
        text="<br>".join(plain(sentence) for sentence in sentences),
        font={"size": 11, "color": FAINT},
        showarrow=False,
        align="left",
        **{"x": 0, "xref": "paper", "xanchor": "left"},
        **{"y": -BELOW_PX / drawn_px, "yref": "paper", "yanchor": "top"},
    )
    extra = 17 * len(sentences)
    figure.update_layout(height=figure.layout.height + extra)
    return figure.update_layout(margin_b=figure.layout.margin.b + extra)


def _instant(timeline: Timeline) -> int:
    return int((timeline.frame["end_s"] <= timeline.frame["start_s"]).sum())
