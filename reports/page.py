"""A report as one HTML file that opens offline: the frame, its figures and their data."""

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from reports.bars import BAR, shares, within
from reports.lanes import Panel
from reports.windows import whole

TASK_COLUMNS = {
    "layer": "i4",
    "micro_batch": "i4",
    "step": "i4",
    "bytes": "f4",
    "link_bytes": "f4",
    "flops": "f4",
}
COARSE = 2048
"""Intervals for which a page holds shares of time when it does not hold all single tasks."""


def document(title: str, body: str) -> str:
    """A whole page around `body`, with plotly.js in it; `title` is plain text."""
    parts = {"title": html.escape(title), "body": body, "plotly": get_plotlyjs()}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _frame())


def still(name: str, figure: go.Figure) -> str:
    """A figure that only answers to the pointer; `name` is its id in the page."""
    return _slot(name, f'{{"figure":{figure.to_json()}}}', figure)


def zoomable(name: str, figure: go.Figure, panels: Sequence[Panel]) -> str:
    """A timeline figure whose bars the page draws anew for each view, from the panels' data."""
    data = json.dumps([_panel_data(panel) for panel in panels], allow_nan=False)
    return _slot(name, f'{{"figure":{figure.to_json()},"panels":{data}}}', figure)


def without_tasks(panel: Panel) -> Panel:
    """The panel for a figure in a page, which takes the single tasks from the panel's data."""
    start_s, _ = whole(panel.timeline)
    return replace(panel, detail=(start_s, start_s))


@cache
def _frame() -> str:
    return files("reports").joinpath("page.html").read_text(encoding="utf-8")


def _slot(name: str, data: str, figure: go.Figure) -> str:
    inert = data.replace("<", "\\u003c")  # so that no name in the data can end the script
    return (
        f'<div class="figure" id="{name}" style="height:{figure.layout.height}px"></div>\n'
        f'<script type="application/json" data-figure="{name}">{inert}</script>\n'
    )


def _panel_data(panel: Panel) -> dict[str, object]:
    tasks, coarse = _tasks(panel), _coarse(panel)
    series = [
        {"lane": item.lane, "tasks": near, "coarse": far}
        for item, near, far in zip(panel.series, tasks, coarse, strict=True)
    ]
    place = {"origin": panel.origin_s, "whole": whole(panel.timeline), "detail": panel.detail}
    return {**place, "series": series}


def _tasks(panel: Panel) -> list[dict[str, object]]:
    """The single tasks of each series within the part of the panel that is held one by one."""
    result = []
    for item in panel.series:
        rows = within(item.tasks, panel.detail)
        columns: dict[str, object] = {name: pack(rows[name], t) for name, t in TASK_COLUMNS.items()}
        columns["start"] = pack(rows["start_s"], "f8")
        columns["length"] = pack(rows["end_s"] - rows["start_s"], "f4")
        result.append(columns)
    return result


def _coarse(panel: Panel) -> list[dict[str, object]]:
    """The shares of each series over the whole run; nothing when all tasks are held."""
    start_s, end_s = whole(panel.timeline)
    if panel.detail == (start_s, end_s):
        return [{} for _ in panel.series]
    result = []
    for bars in shares(panel.series, np.linspace(start_s, end_s, COARSE + 1)):
        columns: dict[str, object] = {"start": pack(bars["start"], "f8")}
        columns["length"] = pack(bars["length"], "f4")
        columns["share"] = pack(bars["height"] / BAR, "f4")
        columns["count"] = pack(bars["count"], "u4")
        result.append(columns)
    return result


def pack(values: "pd.Series[float]", kind: str) -> dict[str, str]:
    """An array as base64 of its little-endian bytes; `kind` is f8, f4, i4 or u4."""
    array: npt.NDArray[np.generic] = values.to_numpy().astype(f"<{kind}")
    return {"type": kind, "data": base64.b64encode(array.tobytes()).decode()}
