"""The traces of one timeline: a pair for each op on each stream, bars and shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.bars import AMOUNTS, BAR, Numbers, Series, series_of, shares, within
from reports.units import plain
from reports.windows import Window, around, whole
from schedules.timeline import Timeline

HOVER = (
    *("start_s", "layer", "micro_batch", "step", "length_s"),
    *(name for amount in AMOUNTS for name in (amount, f"{amount}_per_s")),
)
"""The columns of `customdata` of a task; the script of the page fills them in the same order."""

BINS = 240
"""Intervals of shares beside the single tasks: about four pixels each when all is in view."""

LABEL = 0.0095  # share of the view that a character of a label needs
NEXT = 0.8  # opacity of every other task, so that neighbours do not run into one
WORDS = {"bytes": ("memory", "B"), "link_bytes": ("link", "B"), "flops": ("compute", "flop")}


@dataclass(frozen=True)
class Panel:
    """A timeline as it is drawn.

    Parameters
    ----------
    title: plotly markup above the lanes.
    origin_s: the moment that stands at 0 on the axis.
    detail: the part whose tasks are drawn one by one; shares stand for the rest.
    """

    title: str
    timeline: Timeline
    origin_s: float
    detail: Window
    series: Sequence[Series]


def make_panel(
    timeline: Timeline, window: Window, limit: int, title: str = "", origin_s: float = 0.0
) -> Panel:
    """A panel with about `limit` single tasks around `window` (seconds of the timeline)."""
    detail = around(timeline, window, limit)
    return Panel(title, timeline, origin_s, detail, series_of(timeline))


def traces(panel: Panel, axis: str, colours: dict[str, str], view_s: float) -> list[go.Bar]:
    """Two traces per series, tasks then shares, on y-axis `axis`; `view_s` is the visible time."""
    afar = outside(panel)
    result = []
    for series, far in zip(panel.series, afar, strict=True):
        common = {
            "orientation": "h",
            "yaxis": axis,
            "name": plain(series.op),
            "legendgroup": series.op,
            "showlegend": False,
            "marker": {"color": colours[series.op], "line": {"color": "white", "width": 0}},
        }
        result.append(_task_trace(panel, series, common, view_s))
        result.append(_share_trace(panel, series, far, common))
    return result


def outside(panel: Panel) -> list[pd.DataFrame]:
    """The shares of each series before and after the part that is drawn task by task."""
    start_s, end_s = whole(panel.timeline)
    sides = [(start_s, panel.detail[0]), (panel.detail[1], end_s)]
    total = sum(b - a for a, b in sides)
    counts = [round(BINS * (b - a) / total) if b > a else 0 for a, b in sides]
    edges = [
        np.linspace(a, b, max(1, n) + 1) for (a, b), n in zip(sides, counts, strict=True) if b > a
    ]
    parts = [shares(panel.series, part) for part in edges or [np.array([start_s])]]
    return [pd.concat(pair, ignore_index=True) for pair in zip(*parts, strict=True)]


def hover_columns(tasks: pd.DataFrame) -> Numbers:
    """One row per task with the values of `HOVER`; rates are amounts over the duration."""
    length = (tasks["end_s"] - tasks["start_s"]).to_numpy()
    places = tasks[["start_s", "layer", "micro_batch", "step"]].to_numpy(float)
    amounts = [part for name in AMOUNTS for part in (tasks[name], tasks[name].to_numpy() / length)]
    return np.column_stack([places, length, *(np.asarray(part, float) for part in amounts)])


def labels(tasks: pd.DataFrame, view_s: float) -> list[str]:
    """What is written in a bar: its micro-batch, else `L` and its layer; narrow ones stay empty."""
    characters = (tasks["end_s"] - tasks["start_s"]) / (LABEL * view_s)
    rows = zip(characters, tasks["micro_batch"], tasks["layer"], strict=True)
    words = (
        (room, str(mb) if mb >= 0 else f"L{layer}" if layer >= 0 else "")
        for room, mb, layer in rows
    )
    return [word if max(2, len(word)) <= room else "" for room, word in words]


def task_hover(series: Series) -> str:
    """The hover text of a task, with the lines that mean something for the op."""
    tasks = series.tasks
    place = [
        f"{word} %{{customdata[{HOVER.index(column)}]}}"
        for column, word in (("layer", "layer"), ("micro_batch", "micro-batch"), ("step", "step"))
        if (tasks[column] >= 0).any()
    ]
    lines = [
        f"<b>{plain(series.op)}</b> on {plain(series.stream)}",
        " · ".join(place),
        "start %{customdata[0]:,.6f} s, took %{customdata[4]:.3s}s",
    ]
    for name in AMOUNTS:
        if (tasks[name] > 0).any():
            word, unit = WORDS[name]
            i = HOVER.index(name)
            lines.append(
                f"{word} %{{customdata[{i}]:.3s}}{unit} at %{{customdata[{i + 1}]:.3s}}{unit}/s"
            )
    return "<br>".join(line for line in lines if line) + "<extra></extra>"


def share_hover(series: Series) -> str:
    """The hover text of a share: how much of the interval, and of how many tasks."""
    return (
        f"<b>{plain(series.op)}</b> on {plain(series.stream)}<br>%{{customdata[0]:.0%}} of "
        "%{customdata[1]:.3s}s, %{customdata[2]:,} tasks<extra></extra>"
    )


def _task_trace(panel: Panel, series: Series, common: dict, view_s: float) -> go.Bar:
    rows = within(series.tasks, panel.detail)
    trace = go.Bar(
        **common,
        base=rows["start_s"].to_numpy() - panel.origin_s,
        x=(rows["end_s"] - rows["start_s"]).to_numpy(),
        y=np.full(len(rows), series.lane),
        width=BAR,
        offset=-BAR / 2,
        customdata=hover_columns(rows),
        hovertemplate=task_hover(series),
        text=labels(rows, view_s),
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
    )
    return trace.update(marker_opacity=np.where(np.arange(len(rows)) % 2, NEXT, 1.0))


def _share_trace(panel: Panel, series: Series, far: pd.DataFrame, common: dict) -> go.Bar:
    return go.Bar(
        **common,
        base=far["start"].to_numpy(float) - panel.origin_s,
        x=far["length"].to_numpy(float),
        y=np.full(len(far), series.lane),
        width=far["height"].to_numpy(float),
        offset=far["offset"].to_numpy(float),
        customdata=far[["height", "length", "count"]].to_numpy(float) / (BAR, 1.0, 1.0),
        hovertemplate=share_hover(series),
    )
