"""The charts of a compared run: from simulated to measured, and task by task."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.compare_run_table import SMALLEST_S, Comparison, signed
from reports.timeline_layout import FONT, GRID, INK
from reports.units import plain, seconds

SLOWER, FASTER, CLOCK = "#CC6677", "#44AA99", "#9fb8c9"
ROW_PX = 27
LEAST = 0.005
"""Operations with a smaller share of all parts are shown together."""
ROOM = 0.25
"""Of the axis beside the bars, as a share of what they span."""
POINTS = 150
"""Tasks of each operation that the scatter plot shows at most."""

Step = tuple[str, float]


def steps_between(found: Comparison) -> list[Step]:
    """What leads from the simulated to the measured makespan: operations by their worth, what is
    left of them, and the other parts. They add up."""
    rows = sorted(found["operations"], key=lambda row: -abs(row["worth_s"]))
    shown = [row for row in rows if (row["share"] or 0.0) >= LEAST]
    gap = found["gap_s"]["makespan"]
    left = gap["operations"] - sum(row["worth_s"] for row in shown)
    steps = [(f"{row['op']} on {row['stream']}, {row['phase']}", row["worth_s"]) for row in shown]
    steps += [
        ("other operations", left),
        ("issuing and synchronising", gap["host"]),
        ("no part alone", gap["interaction"]),
        ("waiting between tasks", gap["between"]),
        ("before the first task, after the last", gap["around"]),
    ]
    return [step for step in steps if abs(step[1]) >= SMALLEST_S]


def gap_figure(found: Comparison) -> go.Figure:
    """The simulated makespan, what is due to each part, and the measured one, top to bottom."""
    steps = steps_between(found)
    first, last = (found[clock]["makespan_s"] for clock in ("simulated", "measured"))
    names = ["simulated", *(plain(name) for name, _ in steps), "measured"]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=names,
            x=[first, *(value for _, value in steps), last],
            measure=["absolute", *["relative"] * len(steps), "total"],
            text=[seconds(first), *(signed(value) for _, value in steps), seconds(last)],
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": SLOWER}},
            decreasing={"marker": {"color": FASTER}},
            totals={"marker": {"color": CLOCK}},
            connector={"line": {"color": GRID}},
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    _dress(figure, ROW_PX * len(names) + 60, 30 + 7 * max(map(len, names)))
    axis = {"range": axis_of(found), "gridcolor": GRID, "zeroline": False, "ticksuffix": "s"}
    figure.update_xaxes(**axis)
    return figure.update_yaxes(autorange="reversed", ticks="outside", tickcolor="white")


def axis_of(found: Comparison) -> list[float]:
    """Ends of the axis of that chart, seconds: small differences do not begin at 0."""
    first = found["simulated"]["makespan_s"]
    reached = first + np.cumsum([0.0, *(value for _, value in steps_between(found))])
    low, high = float(reached.min()), float(reached.max())
    margin = ROOM * (high - low) if high > low else 0.1 * high
    return [max(0.0, low - margin), high + margin]


def scatter_figure(
    measured: pd.DataFrame, simulated: pd.DataFrame, colours: dict[str, str]
) -> go.Figure:
    """The seconds of single tasks on both clocks, axes logarithmic; on the line they agree."""
    figure = go.Figure()
    lows, highs = [], []
    for (op, stream), part in _pairs(measured, simulated):
        lows.append(part.min().min())
        highs.append(part.max().max())
        figure.add_scatter(
            x=part["simulated"],
            y=part["measured"],
            mode="markers",
            name=plain(f"{op} on {stream}"),
            marker={"size": 5, "opacity": 0.6, "color": colours[op]},
            hovertemplate="simulated %{x:.3s}s, measured %{y:.3s}s<extra>"
            + plain(f"{op} on {stream}")
            + "</extra>",
        )
    if lows:
        ends = [min(lows), max(highs)]
        line = {"color": INK, "width": 1, "dash": "dot"}
        figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line=line, hoverinfo="skip")
    _dress(figure, 480, 76)
    axis = {"type": "log", "gridcolor": GRID, "ticksuffix": "s", "tickformat": "~s", "dtick": 1}
    figure.update_xaxes(**axis, title="simulated")
    return figure.update_yaxes(**axis, title="measured")


def _pairs(
    measured: pd.DataFrame, simulated: pd.DataFrame
) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Of each operation on each stream some tasks, evenly chosen by their measured seconds."""
    both = pd.DataFrame(
        {
            "op": measured["op"],
            "stream": measured["stream"],
            "measured": measured["end_s"] - measured["start_s"],
            "simulated": simulated["end_s"] - simulated["start_s"],
        }
    )
    both = both[(both["measured"] > 0) & (both["simulated"] > 0)]
    for (op, stream), part in both.groupby(["op", "stream"]):
        ordered = part[["simulated", "measured"]].sort_values("measured")
        chosen = np.linspace(0, len(part) - 1, min(POINTS, len(part))).astype(int)
        yield (str(op), str(stream)), ordered.iloc[chosen.tolist()]


def _dress(figure: go.Figure, height: int, left: int) -> None:
    figure.update_layout(
        height=height,
        margin={"l": left, "r": 24, "t": 16, "b": 46},
        font={"family": FONT, "size": 12, "color": INK},
        plot_bgcolor="white",
        paper_bgcolor="white",
        dragmode=False,
    )
