"""The bar charts of a comparison: throughput beside its bound, and busy and idle streams."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.story import Result, bound_tok_s, busiest, feasible
from reports.timeline_layout import FONT, GRID, INK
from reports.units import percent, plain, seconds, significant

BEST, OTHER, BUSY, IDLE = "#21618c", "#9fb8c9", "#9fb8c9", "#eef1f4"
ROW_PX = 34
COLUMNS = 4
ROOM = 0.2
"""The least share for which the number stands within the bar."""


def throughput_figure(results: Sequence[Result]) -> go.Figure:
    """A bar of tokens/s per schedule, the fastest on top, and a mark where its lower bound lies."""
    ranked = feasible(results)
    names = [plain(result["schedule"]) for result in ranked]
    speed = [result["throughput_tok_s"] for result in ranked]
    bound = [bound_tok_s(result) for result in ranked]
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=speed,
        orientation="h",
        name="throughput",
        marker_color=[BEST, *[OTHER] * (len(ranked) - 1)],
        width=0.62,
        hovertemplate="%{y}: %{x:.4s} tokens/s<extra></extra>",
    )
    figure.add_scatter(
        y=names,
        x=bound,
        mode="markers",
        name="bound: throughput if the makespan equalled its lower bound",
        marker={"symbol": "line-ns", "size": 22, "line": {"width": 2.5, "color": INK}},
        hovertemplate="%{y}: at most %{x:.4s} tokens/s<extra></extra>",
    )
    for name, own, most in zip(names, speed, bound, strict=True):
        text = f"<b>{significant(own)}</b> of {significant(most)} tokens/s"
        figure.add_annotation(x=most, y=name, text=text, showarrow=False, xanchor="left", xshift=9)
    figure.update_layout(**_layout(ROW_PX * len(ranked) + 70, names), showlegend=True)
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"}
    figure.update_layout(legend=legend)
    figure.update_xaxes(range=[0, 1.25 * max(bound)], gridcolor=GRID, zeroline=False)
    return figure.update_yaxes(autorange="reversed", ticks="outside", ticklen=6, tickcolor="white")


def busy_figure(results: Sequence[Result]) -> go.Figure:
    """Per schedule the busy and idle share of each stream; the busiest stream stands out."""
    ranked = feasible(results)
    streams = _streams(ranked)
    columns = min(COLUMNS, len(ranked))
    rows = -(-len(ranked) // columns)
    titles = [f"<b>{plain(result['schedule'])}</b>" for result in ranked]
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=0.2 / rows,
    )
    for i, result in enumerate(ranked):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for bar in _busy_bars(result, streams, show_legend=i == 0):
            figure.add_trace(bar, **place)
    figure.update_layout(**_layout(rows * (25 * len(streams) + 62) + 26, streams), showlegend=True)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top"})
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(range=[0, 1], visible=False)
    return figure.update_yaxes(autorange="reversed", ticks="outside", ticklen=6, tickcolor="white")


def _streams(ranked: Sequence[Result]) -> list[str]:
    """The streams that any schedule uses, in the order in which the results name them."""
    names = dict.fromkeys(name for result in ranked for name in result["busy_s"])
    return [name for name in names if any(result["busy_s"].get(name, 0) > 0 for result in ranked)]


def _busy_bars(result: Result, streams: Sequence[str], show_legend: bool) -> list[go.Bar]:
    shares = [result["utilization"].get(name, 0.0) for name in streams]
    first, _ = busiest(result)
    common = {"orientation": "h", "y": [plain(name) for name in streams], "showlegend": show_legend}
    busy = go.Bar(
        **common,
        x=shares,
        name="busy",
        legendgroup="busy",
        marker_color=[BEST if name == first else BUSY for name in streams],
        text=[percent(share) if share >= ROOM else "" for share in shares],
        **_inside("end"),
        hovertext=[f"{plain(n)}: busy {seconds(result['busy_s'].get(n, 0.0))}" for n in streams],
        hoverinfo="text",
    )
    idle = go.Bar(
        **common,
        x=[1 - share for share in shares],
        name="idle",
        legendgroup="idle",
        marker_color=IDLE,
        text=[percent(share) if 0 < share < ROOM else "" for share in shares],
        **_inside("start"),
        hovertext=[f"{plain(n)}: idle {seconds(result['idle_s'].get(n, 0.0))}" for n in streams],
        hoverinfo="text",
    )
    return [busy, idle]


def _inside(anchor: str) -> dict:
    return {"textposition": "inside", "insidetextanchor": anchor, "constraintext": "none"}


def _layout(height: int, names: Sequence[str]) -> dict:
    """The common look; the left margin has room for the longest of `names`."""
    left = 24 + 7 * max(len(name) for name in names)
    return {
        "height": height,
        "margin": {"l": left, "r": 12, "t": 30, "b": 34},
        "font": {"family": FONT, "size": 12, "color": INK},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "barmode": "stack",
        "bargap": 0.22,
        "dragmode": False,
        "hoverlabel": {"bgcolor": "white", "font": {"family": FONT, "color": INK}},
    }
