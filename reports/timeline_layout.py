"""How a timeline figure looks: lanes, time axis, legend, buttons."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from reports.bars import busy_until, used_streams
from reports.lanes import Panel
from reports.units import percent, plain
from reports.windows import Window, steady_step, whole
from schedules.timeline import Timeline

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, FAINT, GRID = "#1f2933", "#6b7785", "#e4e8ec"
LANE_PX, TITLE_PX, BELOW_PX = 27, 38, 104


def steady_shares(timeline: Timeline) -> list[float]:
    """For each used stream, the share of `steady_step(timeline)` for which it works."""
    step = np.array(steady_step(timeline))
    frame = timeline.frame
    busy = [np.ptp(busy_until(frame[frame["stream"] == s], step)) for s in used_streams(timeline)]
    return [float(seconds / np.ptp(step)) for seconds in busy]


def lane_axis(timeline: Timeline, domain: list[float]) -> dict:
    """The y-axis of a panel: a lane per stream, with its name and its share of the steady step."""
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


def title_above(text: str, y: float) -> dict:
    """An annotation above the lanes; `y` is their top in the paper's units."""
    place = {
        "x": 0,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
    }
    return {"text": text, "showarrow": False, "font": {"size": 14, "color": INK}, **place}


def add_legend(figure: go.Figure, panels: Sequence[Panel], colours: Mapping[str, str]) -> None:
    """One entry per op that is drawn, whatever part of it is in view."""
    drawn = {series.op for panel in panels for series in panel.series}
    for op in (op for op in colours if op in drawn):
        entry = {"name": plain(op), "legendgroup": op, "marker_color": colours[op]}
        figure.add_bar(**entry, orientation="h", x=[None], y=[0], hoverinfo="skip")


def page_layout(panels: Sequence[Panel], total: int, views: Mapping[str, Window]) -> dict:
    """The layout around `total` pixels of panels, with a button per view."""
    buttons = [
        {"label": label, "method": "relayout", "args": [{"xaxis.range": list(view)}]}
        for label, view in views.items()
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": False}
    menu |= {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top", "pad": {"t": 0, "r": 0}}
    menu |= {"bgcolor": "white", "bordercolor": GRID, "font": {"size": 11, "color": INK}}
    names = [stream for panel in panels for stream in used_streams(panel.timeline)]
    return {
        "height": total + BELOW_PX,
        "margin": {"l": 60 + 7 * max(map(len, names)), "r": 40, "t": 4, "b": BELOW_PX - 4},
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


def time_axis(panels: Sequence[Panel], window: Window) -> dict:
    """The time axis of all panels, which can be dragged to the ends of the longest run."""
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
