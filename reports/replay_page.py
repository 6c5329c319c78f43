"""Measured and simulated timelines of the same runs below each other."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

from reports import units
from reports.compare_page import fair_limits
from reports.compare_table import provenance_html
from reports.files import write_text
from reports.html_parts import note, table, with_short_origin
from reports.lanes import Panel, make_panel
from reports.page import document, without_tasks, zoomable
from reports.palette import op_colours
from reports.replay_table import BUSY, TIMES, Replayed, busy_rows, error_of, labels, time_rows
from reports.timeline_figure import notes, stacked_figure
from reports.timeline_page import PAGE_TASKS
from reports.windows import MANY_TASKS, Window, default_window, whole
from schedules.errors import BadInput
from schedules.timeline import Timeline

STEP, LAYERS, RUN = "One step", "Two layers", "Whole run"


class Both(NamedTuple):
    """A run on both clocks: its numbers, and one batch of it."""

    replayed: Replayed
    measured: Timeline
    simulated: Timeline


def write_replays(runs: Sequence[Both], path: str | Path) -> None:
    """Write replays as a self-contained HTML page that opens offline.

    Each run has two panels, the measured above the simulated timeline; both are 0 where the middle
    decode step begins, or its middle layer where a step has too many tasks to be read. Raises
    `BadInput` when there is no run, a timeline has no tasks, or the file cannot be written.
    """
    if not runs:
        raise BadInput("a page of replays needs at least one")
    replays = [run.replayed for run in runs]
    panels, windows, colours = drawn(runs)
    figure = replay_figure([without_tasks(panel) for panel in panels], windows, colours)
    names = ", ".join(dict.fromkeys(str(r["schedule"]) for r in replays))
    parts = [
        f"<h1>{html.escape(names)}: measured and simulated</h1>",
        f"<p class='lead'>{html.escape(headline(replays))}</p>",
        "<p class='why'>The simulator was given the duration of each task as it was measured, and "
        "what issuing a task took; when the tasks ran is its own answer.</p>",
        table(TIMES, time_rows(replays), 2),
        "<h2>The same step on both clocks</h2>",
        note(_axis(runs, next(iter(windows)))),
        zoomable("replays", figure, panels),
        note(" ".join(notes(panels, zooming=True))),
        "<h2>Who worked</h2>",
        table(BUSY, busy_rows(replays), 2),
        "<footer><h2>Where the numbers come from</h2>",
        f"{provenance_html([with_short_origin(r) for r in replays])}</footer>",
    ]
    write_text(path, document(f"{names}: measured and simulated", "\n".join(parts)))


def headline(replays: Sequence[Replayed]) -> str:
    """How well the two clocks agree.

    >>> headline([{"schedule": "a", "measured": {"makespan_s": 2.0},
    ...           "simulated": {"makespan_s": 1.9}, "error": {"makespan_s": -0.05}}])
    'a: measured 2.00 s, simulated 1.90 s (-5.0 %).'
    """
    parts = [
        f"{name}: measured {units.seconds(r['measured']['makespan_s'])}, simulated "
        f"{units.seconds(r['simulated']['makespan_s'])} ({error_of(r)})"
        for name, r in zip(labels(replays), replays, strict=True)
    ]
    return "; ".join(parts) + "."


def drawn(runs: Sequence[Both]) -> tuple[list[Panel], dict[str, Window], dict[str, str]]:
    """Two panels for each run, the parts of the axis worth seeing, and a colour for each op.

    The first of the parts is the one to open on: a step, or two layers where a step has too many
    tasks to be read.
    """
    timelines = [timeline for run in runs for timeline in (run.measured, run.simulated)]
    limits = fair_limits([len(timeline) for timeline in timelines], PAGE_TASKS)
    steps = [middle_step(timeline) for timeline in timelines]
    many = any(
        len(timeline.window(*step)) > MANY_TASKS
        for timeline, step in zip(timelines, steps, strict=True)
    )
    layers = [default_window(timeline) for timeline in timelines]
    windows = layers if many else steps
    replays = [run.replayed for run in runs]
    titles = [t for pair in map(_titles, labels(replays), replays) for t in pair]
    panels = [
        make_panel(timeline, window, limit, title, origin_s=window[0])
        for timeline, window, limit, title in zip(timelines, windows, limits, titles, strict=True)
    ]
    views = {STEP: steps, LAYERS: layers, RUN: [whole(timeline) for timeline in timelines]}
    order = (LAYERS, STEP, RUN) if many else (STEP, LAYERS, RUN)
    return panels, {name: _around(panels, views[name]) for name in order}, op_colours(timelines)


def replay_figure(
    panels: Sequence[Panel], windows: dict[str, Window], colours: dict[str, str]
) -> go.Figure:
    """The panels on one time axis, which opens on the first of `windows`."""
    return stacked_figure(panels, next(iter(windows.values())), windows, colours)


def middle_step(timeline: Timeline) -> Window:
    """From the first start to the last end of the middle decode step (prefill without one)."""
    whole(timeline)
    frame = timeline.frame
    steps = sorted(set(frame.loc[frame["step"] >= 1, "step"])) or [0]
    rows = frame[frame["step"] == steps[len(steps) // 2]]
    return float(rows["start_s"].min()), float(rows["end_s"].max())


def _titles(label: str, replayed: Replayed) -> tuple[str, str]:
    name = units.plain(label)
    measured, simulated = (
        units.seconds(replayed[clock]["makespan_s"]) for clock in ("measured", "simulated")
    )
    return (
        f"<b>{name}</b>  measured: {measured} in all",
        f"<b>{name}</b>  simulated: {simulated} in all, {error_of(replayed)}",
    )


def _axis(runs: Sequence[Both], opening: str) -> str:
    """What the time axis shows, in sentences."""
    begin = "middle decode step" if opening == STEP else "middle layer of the middle decode step"
    several = any(run.replayed["batches"] > 1 for run in runs)
    return (
        f"One time axis for all, which is 0 where the {begin} begins. "
        f"{'Of several batches the first is shown. ' if several else ''}"
        "Drag to move, scroll to zoom, double-click to return."
    )


def _around(panels: Sequence[Panel], windows: Sequence[Window]) -> Window:
    """The part of the axis that holds a window of each panel."""
    shifted = [(a - p.origin_s, b - p.origin_s) for p, (a, b) in zip(panels, windows, strict=True)]
    return min(start for start, _ in shifted), max(end for _, end in shifted)
