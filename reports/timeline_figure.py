"""The timeline as a figure: a lane per stream, a bar per task, and the gaps are the bubbles."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from reports.bars import busy_until, used_streams
from reports.lanes import Panel, make_panel, traces
from reports.palette import op_colours
from reports.units import percent, plain
from reports.windows import Window, default_window, steady_step, whole
from schedules.timeline import Timeline

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, FAINT, GRID = "#1f2933", "#6b7785", "#e4e8ec"
LANE_PX, TITLE_PX, BELOW_PX = 27, 38, 104

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
        figure.update_layout({f"yaxis{i + 1}": _lane_axis(panel.timeline, domain)})
        figure.add_annotation(**_title(panel.title, (top - TITLE_PX) / total))
        top -= height
    _legend(figure, panels, colours)
    figure.update_layout(_layout(total, len(panels), views))
    figure.update_xaxes(_time_axis(panels, window))
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
            f"{start} the {single:,} of {total:,} tasks around the opening view, which are held one "
            f"by one, {afar}."
        )
    elif zooming:
        parts.append(f"From afar, {afar}.")
    if any(len(used_streams(p.timeline)) < len(p.timeline.streams) for p in panels):
        parts.append("Streams that ran nothing are left out.")
    instant = sum(_instant(p.timeline) for p in panels)
    if instant:
        parts.append(f"{instant:,} tasks take no time and cannot be seen.")
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


def steady_shares(timeline: Timeline) -> list[float]:
    """For each used stream, the share of `steady_step(timeline)` for which it works."""
    step = np.array(steady_step(timeline))
    frame = timeline.frame
    busy = [np.ptp(busy_until(frame[frame["stream"] == s], step)) for s in used_streams(timeline)]
    return [float(seconds / np.ptp(step)) for seconds in busy]


def _instant(timeline: Timeline) -> int:
    return int((timeline.frame["end_s"] <= timeline.frame["start_s"]).sum())


def _lane_axis(timeline: Timeline, domain: list[float]) -> dict:
    streams = used_streams(timeline)
    share = [percent(busy) for busy in steady_shares(timeline)]
    return {
        "domain": domain,
        "range": [len(streams) - 0.5, -0.5],
        "tickvals": list(range(len(streams))),
        "ticktext": [
            f"{plain(s)}  <span style='color:{FAINT}'>{p}</span>"
            for s, p in zip(streams, share, strict=True)
        ],
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "automargin": False,
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": "white",
    }


def _title(text: str, y: float) -> dict:
    place = {
        "x": 0,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
    }
    return {"text": text, "showarrow": False, "font": {"size": 14, "color": INK}, **place}


def _legend(figure: go.Figure, panels: Sequence[Panel], colours: Mapping[str, str]) -> None:
    """One entry per op that is drawn, whatever part of it is in view."""
    drawn = {series.op for panel in panels for series in panel.series}
    for op in (op for op in colours if op in drawn):
        entry = {"name": plain(op), "legendgroup": op, "marker_color": colours[op]}
        figure.add_bar(**entry, orientation="h", x=[None], y=[0], hoverinfo="skip")


def _layout(total: int, panels: int, views: Mapping[str, Window]) -> dict:
    buttons = [
        {"label": label, "method": "relayout", "args": [{"xaxis.range": list(view)}]}
        for label, view in views.items()
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": False}
    menu |= {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top", "pad": {"t": 0, "r": 0}}
    menu |= {"bgcolor": "white", "bordercolor": GRID, "font": {"size": 11, "color": INK}}
    return {
        "height": total + BELOW_PX,
        "margin": {"l": 92, "r": 40, "t": 4, "b": BELOW_PX - 4},
        "font": {"family": FONT, "size": 12, "color": INK},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "barmode": "overlay",
        "bargap": 0,
        "dragmode": "pan",
        "hovermode": "closest",
        "modebar": {"orientation": "v", "remove": ["select2d", "lasso2d", "autoscale"]},
        "hoverlabel": {
            "align": "left",
            "bgcolor": "white",
            "bordercolor": FAINT,
            "font": {"family": FONT, "color": INK},
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": -40 / total,
            "yanchor": "top",
            "traceorder": "normal",
        },
        "updatemenus": [menu],
    }


def _time_axis(panels: Sequence[Panel], window: Window) -> dict:
    spans = [(whole(p.timeline), p.origin_s) for p in panels]
    first = min(span[0] - origin for span, origin in spans)
    last = max(span[1] - origin for span, origin in spans)
    return {
        "range": list(window),
        "minallowed": first - 0.02 * (last - first),
        "maxallowed": last + 0.02 * (last - first),
        "tickformat": "~s",
        "ticksuffix": "s",
        "anchor": f"y{len(panels)}" if len(panels) > 1 else "y",
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": GRID,
    }
