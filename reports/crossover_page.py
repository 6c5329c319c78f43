"""Where the winner changes, as a page: both curves, the ranges and every point."""

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from reports.compare_table import provenance_html
from reports.crossover_table import (
    Crossover,
    headline,
    quantity,
    range_lines,
    shown,
    throughputs,
    title_of,
    who,
)
from reports.files import write_text
from reports.page import document, still
from reports.timeline_layout import FAINT, FONT, GRID, INK
from reports.units import DASH, plain, significant

COLOURS = ("#332288", "#CC6677")  # of the page's palette, the two that are furthest apart
HEIGHT_PX = 460
TICKS = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]


def write_crossover(found: Crossover, path: str | Path) -> None:
    """Write what `moelab crossover --json` says as a self-contained HTML page.

    Raises `BadInput` for a file that cannot be written; it appears whole or not at all.
    """
    first, second = found["schedules"]
    title = f"{first} or {second}: {found['model']} on {found['hardware']}, {found['workload']}"
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in range_lines(found))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='lead'>{html.escape(headline(found))}</p>",
        f"<ul class='why'>{lines}</ul>",
        still("curves", curves(found)),
        _points_html(found),
        f"<footer><h2>Where the numbers come from</h2>{_origin(found)}</footer>",
    ]
    write_text(path, document(title, "\n".join(parts)))


def curves(found: Crossover) -> go.Figure:
    """Throughput of both schedules over the quantity, both axes logarithmic; changes are marked."""
    figure = go.Figure()
    points = found["points"]
    for i, name in enumerate(found["schedules"]):
        figure.add_scatter(
            x=[_scaled(found, point["value"]) for point in points],
            y=[throughputs(point)[i] for point in points],
            mode="lines+markers",
            name=plain(name),
            line={"color": COLOURS[i], "width": 2},
            marker={"size": 5},
            text=[quantity(found, point["value"]) for point in points],
            hovertemplate="%{text}: %{y:.4s} tokens/s<extra>" + plain(name) + "</extra>",
        )
    for crossing in found["crossings"]:
        where = _scaled(found, (crossing["last"] * crossing["first"]) ** 0.5)
        label = f"{quantity(found, crossing['last'])} {DASH} {quantity(found, crossing['first'])}"
        figure.add_vline(x=where, line={"color": FAINT, "dash": "dot"})
        mark = {"x": math.log10(where), "y": 1, "yref": "paper", "yanchor": "top"}  # a log axis
        figure.add_annotation(**mark, text=label, showarrow=False, xanchor="left", xshift=4)
    _dress(figure, found)
    return figure


def _dress(figure: go.Figure, found: Crossover) -> None:
    unit = {"bytes": ", GB", "bytes/s": ", GB/s"}.get(found["unit"], "")
    axis = {"type": "log", "gridcolor": GRID, "ticks": "outside", "tickcolor": GRID}
    figure.update_layout(
        height=HEIGHT_PX,
        margin={"l": 70, "r": 24, "t": 34, "b": 60},
        font={"family": FONT, "size": 12, "color": INK},
        plot_bgcolor="white",
        paper_bgcolor="white",
        dragmode=False,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    ticks = {"tickmode": "array", "tickvals": TICKS, "ticktext": [f"{v:,.6g}" for v in TICKS]}
    figure.update_xaxes(**axis, **ticks, title=title_of(found) + unit)
    figure.update_yaxes(**axis, **ticks, title="tokens/s")


def _scaled(found: Crossover, value: float) -> float:
    return value / 1e9 if found["unit"].startswith("bytes") else value


def _points_html(found: Crossover) -> str:
    names = [title_of(found)]
    names += [f"{name}, tokens/s" for name in found["schedules"]]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(_row(found, point) for point in shown(found))
    last = '<th class="text">winner</th>'
    return f"<table><thead><tr>{head}{last}</tr></thead><tbody>{rows}</tbody></table>"


def _row(found: Crossover, point: Mapping[str, Any]) -> str:
    speeds = [DASH if s is None else significant(s) for s in throughputs(point)]
    cells = [quantity(found, point["value"]), *speeds]
    inner = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr>{inner}<td class="text">{html.escape(who(point))}</td></tr>'


def _origin(found: Crossover) -> str:
    """The provenance at both ends of the range; between them, only the quantity differs."""
    ends = (found["points"][0], found["points"][-1])
    return provenance_html([result for point in ends for result in point["results"]])
