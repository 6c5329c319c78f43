"""The charts of a calibration: how closely the fits meet what was measured, and what was measured.

Each takes rows of what `sim.calibration.summary` writes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from reports.palette import PALETTE
from reports.timeline_layout import FAINT, FONT, GRID, INK
from reports.units import amount, plain, seconds

Row = Mapping[str, Any]

CLOSE = 0.1
"""Relative error of the band in which a fit is close."""
HEIGHT_PX = 340
ROW_PX = 30
SIZES = {4.0**power * 1024: f"{size:,} {unit}" for power, size, unit in (
    (1, 4, "KiB"), (3, 64, "KiB"), (5, 1, "MiB"), (7, 16, "MiB"), (9, 256, "MiB"),
)}  # fmt: skip


def residual_figure(rows: Sequence[Row]) -> go.Figure:
    """Modelled over measured seconds, by operation; on the line they agree. Axes logarithmic."""
    figure = go.Figure()
    figure.add_hrect(y0=1 - CLOSE, y1=1 + CLOSE, fillcolor=GRID, line_width=0, layer="below")
    figure.add_hline(y=1, line={"color": FAINT, "width": 1})
    for (op, own), colour in zip(_grouped(rows, "op"), _colours(), strict=False):
        figure.add_scatter(
            x=[row["measured_s"] for row in own],
            y=[row["modelled_s"] / row["measured_s"] for row in own],
            mode="markers",
            name=plain(op),
            marker={"size": 5, "opacity": 0.7, "color": colour},
            text=[_met(row) for row in own],
            hovertemplate="%{text}<extra>" + plain(op) + "</extra>",
        )
    _dress(figure, HEIGHT_PX)
    axis = {"type": "log", "gridcolor": GRID, "zeroline": False}
    figure.update_xaxes(**axis, **_times([row["measured_s"] for row in rows]), title="measured")
    ticks = [0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10]
    return figure.update_yaxes(**axis, title="modelled / measured", tickvals=ticks)


def copies_figure(rows: Sequence[Row]) -> go.Figure:
    """Bytes/s by size of a copy: measured (points) and as fitted (lines), for each link."""
    figure = go.Figure()
    for (link, own), colour in zip(_grouped(rows, "link"), _colours(), strict=False):
        ordered = sorted(own, key=lambda row: float(row["bytes"]))
        sizes = [row["bytes"] for row in ordered]
        figure.add_scatter(
            x=sizes,
            y=[row["bytes"] / row["measured_s"] for row in ordered],
            mode="markers",
            name=plain(link),
            legendgroup=link,
            marker={"size": 7, "color": colour},
            text=[_copied(row) for row in ordered],
            hovertemplate="%{text}<extra>" + plain(link) + "</extra>",
        )
        if all(row["modelled_s"] for row in ordered):
            figure.add_scatter(
                x=sizes,
                y=[row["bytes"] / row["modelled_s"] for row in ordered],
                mode="lines",
                legendgroup=link,
                showlegend=False,
                line={"color": colour, "width": 1.5},
                hoverinfo="skip",
            )
    _dress(figure, HEIGHT_PX)
    axis = {"type": "log", "gridcolor": GRID, "zeroline": False}
    labels = {"tickvals": list(SIZES), "ticktext": list(SIZES.values())}
    figure.update_xaxes(**axis, **labels, title="size of a copy")
    return figure.update_yaxes(**axis, title="B/s", tickformat="~s", dtick=1)


def pairs_figure(rows: Sequence[Row]) -> go.Figure:
    """What is left of each stream's speed while the other of a pair works too."""
    names = [f"{row['role']} during {_other(row)}" for row in rows]
    left = [row["alone_s"] / row["together_s"] for row in rows]
    times = [f"{seconds(row['alone_s'])} alone, {seconds(row['together_s'])}" for row in rows]
    figure = go.Figure(
        go.Bar(
            orientation="h",
            y=[plain(name) for name in names],
            x=left,
            marker_color=PALETTE[2],
            width=0.62,
            text=[f"{share:.2f}" for share in left],
            textposition="outside",
            cliponaxis=False,
            customdata=times,
            hovertemplate="%{y}: %{customdata} together<extra></extra>",
        )
    )
    figure.add_vline(x=1, line={"color": FAINT, "width": 1})
    _dress(figure, ROW_PX * len(rows) + 60, left=30 + 7 * max(map(len, names)))
    axis = {"gridcolor": GRID, "zeroline": False, "range": [0, 1.15 * max(1.0, *left)]}
    figure.update_xaxes(**axis, title="speed together / alone")
    figure.update_yaxes(autorange="reversed", ticks="outside", tickcolor="white")
    return figure.update_layout(showlegend=False)


def threads_figure(rows: Sequence[Row]) -> go.Figure:
    """How much faster several threads are than the fewest that were measured."""
    return _lines(
        rows,
        "what",
        lambda own: [(r["threads"], r["per_second"] / own[0]["per_second"]) for r in own],
        lambda row: f"{row['threads']} threads: {amount(row['per_second'], row['unit'])}",
        ("threads", "speed / with one thread"),
    ).update_xaxes(dtick=1)


def steady_figure(rows: Sequence[Row]) -> go.Figure:
    """The same probes at several moments: level lines, where the machine was steady."""
    return _lines(
        rows,
        "probe",
        lambda own: [(row["at_s"], row["speed"]) for row in own],
        lambda row: f"turn {row['turn']}: {row['speed']:.3f}",
        ("seconds since the first", "speed / fastest"),
    )


def _lines(
    rows: Sequence[Row],
    key: str,
    places: Callable[[Sequence[Row]], list[tuple[float, float]]],
    said: Callable[[Row], str],
    titles: tuple[str, str],
) -> go.Figure:
    figure = go.Figure()
    for (name, own), colour in zip(_grouped(rows, key), _colours(), strict=False):
        x, y = zip(*places(own), strict=True)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=plain(name),
            line={"color": colour, "width": 1.5},
            text=[said(row) for row in own],
            hovertemplate="%{text}<extra>" + plain(name) + "</extra>",
        )
    _dress(figure, HEIGHT_PX)
    axis = {"gridcolor": GRID, "zeroline": False}
    figure.update_xaxes(**axis, title=titles[0])
    return figure.update_yaxes(**axis, title=titles[1], rangemode="tozero")


def _times(values: Sequence[float]) -> dict[str, Any]:
    """Ticks of an axis of seconds: decades, and parts of them where there are few."""
    digits = (1, 2, 5) if max(values) < 100 * min(values) else (1,)
    ticks = [digit * 10.0**power for power in range(-9, 5) for digit in digits]
    return {"tickvals": ticks, "ticktext": [_short(tick) for tick in ticks]}


def _short(tick: float) -> str:
    """Without digits that say nothing.

    >>> _short(2e-5), _short(1e-3), _short(500.0)
    ('20 µs', '1 ms', '500 s')
    """
    number, unit = seconds(tick).split(" ")
    return f"{float(number.replace(',', '')):g} {unit}"


def _grouped(rows: Sequence[Row], key: str) -> list[tuple[str, list[Row]]]:
    """The rows by the value of a key, in order of appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[key]), []).append(row)
    return list(found.items())


def _colours() -> Iterator[str]:
    """As many as are needed: from the nineteenth on the palette starts again."""
    while True:
        yield from PALETTE


def _met(row: Row) -> str:
    times = f"measured {seconds(row['measured_s'])}, modelled {seconds(row['modelled_s'])}"
    return plain(f"{row['where']}: {times}")


def _copied(row: Row) -> str:
    return f"{amount(row['bytes'], 'B')} in {seconds(row['measured_s'])}"


def _other(row: Row) -> str:
    """The other role of a pair, which may be one of the same kind.

    >>> _other({"pair": "h2d+d2h", "role": "h2d"})
    'd2h'
    """
    roles = str(row["pair"]).split("+")
    return next((role for role in roles if role != row["role"]), str(row["role"]))


def _dress(figure: go.Figure, height: int, left: int = 76) -> None:
    figure.update_layout(
        height=height,
        margin={"l": left, "r": 24, "t": 16, "b": 46},
        font={"family": FONT, "size": 12, "color": INK},
        plot_bgcolor="white",
        paper_bgcolor="white",
        dragmode=False,
        showlegend=True,
        hoverlabel={"bgcolor": "white", "font": {"family": FONT, "color": INK}},
    )
