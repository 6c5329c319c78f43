"""Schedules against each other on one page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.compare_figures import busy_figure, throughput_figure
from reports.compare_table import provenance_html, results_html
from reports.files import write_text
from reports.html_parts import note
from reports.lanes import Panel, make_panel
from reports.page import document, still, without_tasks, zoomable
from reports.palette import op_colours
from reports.story import Result, feasible, headline, reason
from reports.timeline_figure import notes, stacked_figure
from reports.timeline_page import PAGE_TASKS
from reports.units import plain, significant
from reports.windows import Window, default_window, steady_step, whole
from schedules.errors import BadInput, suggest
from schedules.timeline import Timeline

MOST_REPEATS = 3
"""How often the view may hold the steady state of the quickest schedule."""


def write_comparison(
    results: Sequence[Result],
    timelines: Mapping[str, Timeline],
    path: str | Path,
    title: str = "Comparison",
) -> None:
    """Write a comparison as a self-contained HTML page that opens offline.

    Parameters
    ----------
    results: what `moelab simulate --json` writes, one per schedule.
    timelines: by the `schedule` of a result; schedules without one are only in the tables.
    path: the file; it appears whole or not at all.
    title: what was compared, in plain text.

    Raises
    ------
    BadInput: no results, a timeline of a schedule that has no result, or a file that cannot be
        written.
    """
    _check(results, timelines)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='lead'>{html.escape(headline(results))}</p>",
        f"<p class='why'>{html.escape(reason(results))}</p>",
        results_html(results),
    ]
    if feasible(results):
        parts += _charts(results)
    shown = [r for r in feasible(results) if r["schedule"] in timelines]
    if shown:
        parts += _timelines([(r, timelines[r["schedule"]]) for r in shown])
    parts.append(f"<footer><h2>Where the numbers come from</h2>{provenance_html(results)}</footer>")
    write_text(path, document(title, "\n".join(parts)))


def _check(results: Sequence[Result], timelines: Mapping[str, Timeline]) -> None:
    if not results:
        raise BadInput("a comparison needs at least one result")
    names = [result["schedule"] for result in results]
    for name in timelines:
        if name not in names:
            raise BadInput(f"there is a timeline but no result of '{name}'{suggest(name, names)}")


def _charts(results: Sequence[Result]) -> list[str]:
    return [
        "<h2>Throughput and its bound</h2>",
        still("throughput", throughput_figure(results)),
        "<h2>Who works, who waits</h2>",
        note("Share of the makespan for which each stream works."),
        still("busy", busy_figure(results)),
    ]


def _timelines(shown: Sequence[tuple[Result, Timeline]]) -> list[str]:
    """The timelines below each other, each with its steady state beginning at 0."""
    windows = [default_window(timeline) for _, timeline in shown]
    limits = fair_limits([len(timeline.frame) for _, timeline in shown], PAGE_TASKS)
    panels = [
        _panel(result, timeline, window, limit)
        for (result, timeline), window, limit in zip(shown, windows, limits, strict=True)
    ]
    views = _views(panels, windows)
    colours = op_colours([timeline for _, timeline in shown])
    drawn = [without_tasks(panel) for panel in panels]
    figure = stacked_figure(drawn, views["Steady state"], views, colours)
    return [
        "<h2>The same moment of each schedule</h2>",
        note(
            "One time axis for all, which is 0 where the middle layer of the middle decode step "
            "begins. Drag to move, scroll to zoom, double-click to return."
        ),
        zoomable("timelines", figure, panels),
        note(" ".join(notes(panels, zooming=True))),
    ]


def fair_limits(sizes: Sequence[int], total: int) -> list[int]:
    """`total` tasks shared out: what small timelines leave over goes to the large ones.

    >>> fair_limits([10, 500, 900], 700)
    [10, 345, 345]
    """
    limits = [0] * len(sizes)
    for done, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        limits[i] = min(sizes[i], (total - sum(limits)) // (len(sizes) - done))
    return limits


def _panel(result: Result, timeline: Timeline, window: Window, limit: int) -> Panel:
    speed = f"{significant(result['throughput_tok_s'])} tokens/s"
    title = f"<b>{plain(result['schedule'])}</b>  {speed}"
    return make_panel(timeline, window, limit, title, origin_s=window[0])


def _views(panels: Sequence[Panel], windows: Sequence[Window]) -> dict[str, Window]:
    """The buttons: about two layers of the slowest schedule, a step of each, everything."""
    lengths = [end - start for start, end in windows]
    steps = [_shift(steady_step(panel.timeline), panel) for panel in panels]
    runs = [_shift(whole(panel.timeline), panel) for panel in panels]
    return {
        "Steady state": (0.0, min(max(lengths), MOST_REPEATS * min(lengths))),
        "One step": (min(start for start, _ in steps), max(end for _, end in steps)),
        "Whole run": (min(start for start, _ in runs), max(end for _, end in runs)),
    }


def _shift(window: Window, panel: Panel) -> Window:
    return window[0] - panel.origin_s, window[1] - panel.origin_s
