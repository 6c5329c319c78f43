"""The picture of docs/validation.md: simulated over published figures, by system."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.palette import MUTED
from sim.accuracy import Checked

BAND = 0.15
WIDTH, HEIGHT = 1200, 460
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

PANELS = {
    "throughput": "throughput, tokens/s",
    "latency": "latencies and operation times, ms",
    "memory": "peak GPU memory, GB",
}

SYSTEMS = {
    "cgopipe": "MoE-Lightning",
    "flexgen": "FlexGen",
    "flexgen-cpu": "FlexGen, CPU attention",
    "zero-inference": "ZeRO-Inference",
    "": "operations (figure 9)",
    "gpu-only": "GPU-only",
    "pre-gated": "Pre-gated MoE",
    "on-demand": "on-demand",
    "prefetch-all": "prefetch-all",
}


def picture(checked: Sequence[Checked]) -> go.Figure:
    """Simulated over published, both logarithmic; a panel for each kind, a colour for each system.

    The band is +-15 % about equality.
    """
    titles = list(PANELS.values())
    figure = make_subplots(1, len(PANELS), subplot_titles=titles, horizontal_spacing=0.06)
    shown = set()
    for column, kind in enumerate(PANELS, start=1):
        members = [c for c in checked if c.kind == kind and c.simulated is not None]
        _band(figure, column, [x for c in members for x in point(c)])
        for colour, (schedule, name) in zip(MUTED, SYSTEMS.items(), strict=True):
            points = [point(c) for c in members if c.row.schedule == schedule]
            if points:
                x, y = zip(*points, strict=True)
                marker = {"color": colour, "size": 8, "opacity": 0.8}
                figure.add_scatter(
                    x=x, y=y, mode="markers", name=name, legendgroup=name,
                    marker=marker, showlegend=name not in shown, row=1, col=column,
                )  # fmt: skip
                shown.add(name)
    figure.update_xaxes(type="log", title="published", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title="simulated", col=1)
    legend = {"orientation": "h", "y": -0.2}
    margin = {"l": 60, "r": 20, "t": 40, "b": 20}
    figure.update_layout(
        template="plotly_white", width=WIDTH, height=HEIGHT, legend=legend, margin=margin
    )
    return figure


def point(c: Checked) -> tuple[float, float]:
    """Published and simulated, in the panel's unit; operations are published in seconds."""
    assert c.simulated is not None
    factor = 1e3 if c.row.metric.startswith("op_s:") else 1.0
    return c.row.value * factor, c.simulated * factor


def _band(figure: go.Figure, column: int, values: Sequence[float]) -> None:
    ends = [min(values) / 1.5, max(values) * 1.5] if values else [0.5, 2.0]
    x = [*ends, *reversed(ends)]
    y = [end * (1 + BAND) for end in ends] + [end * (1 - BAND) for end in reversed(ends)]
    figure.add_scatter(
        x=x, y=y, fill="toself", mode="none", fillcolor="rgba(120,120,120,0.18)",
        name="±15 %", showlegend=column == 1, row=1, col=column,
    )  # fmt: skip
    line = {"color": "grey", "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, showlegend=False, row=1, col=column)


def write_png(figure: go.Figure, target: Path) -> None:
    """A picture of the figure by a headless browser. Raises `FileNotFoundError` without one."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise FileNotFoundError(f"none of {', '.join(BROWSERS)} is there to draw {target}")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.write_html(page, include_plotlyjs=True, config={"staticPlot": True})
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={WIDTH + 16},{HEIGHT + 16}", "--virtual-time-budget=10000"]
        options += [f"--user-data-dir={folder}/profile", f"--screenshot={target}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True)
