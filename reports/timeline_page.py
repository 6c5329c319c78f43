"""One timeline as a page."""

import html
from pathlib import Path

from reports import units
from reports.critical import NOTE, outline
from reports.files import write_text
from reports.html_parts import note
from reports.lanes import make_panel
from reports.page import document, without_tasks, zoomable
from reports.palette import op_colours
from reports.timeline_figure import notes, stacked_figure, views
from reports.windows import default_window, whole
from schedules.timeline import Timeline

PAGE_TASKS = 200_000
"""Tasks that a page holds one by one, about 50 bytes each; beyond it holds shares of time."""


def write_timeline(
    timeline: Timeline,
    path: str | Path,
    limit: int = PAGE_TASKS,
    critical: Timeline | None = None,
) -> None:
    """Write one timeline as a self-contained HTML page that opens on its steady state.

    About `limit` tasks around that view can be seen one by one; for the rest the page holds the
    shares of time of each op, and says so. Tasks that are in `critical` are outlined. Raises
    `BadInput` when the timeline has no tasks or the file cannot be written.
    """
    window = default_window(timeline)
    panel = make_panel(timeline, window, limit)
    figure = stacked_figure(
        [without_tasks(panel)], window, views(timeline, window), op_colours([timeline])
    )
    sentences = notes([panel], zooming=True)
    if critical is not None:
        figure.add_trace(outline(critical, timeline))
        sentences.append(NOTE)
    body = (
        f"<h1>Timeline</h1>\n<p class='lead'>{html.escape(timeline.name)}</p>\n"
        f"<p class='why'>{_summary(timeline)}</p>\n{zoomable('timeline', figure, [panel])}"
        f"{note(' '.join(sentences))}"
    )
    write_text(path, document(timeline.name, body))


def _summary(timeline: Timeline) -> str:
    start_s, end_s = whole(timeline)
    steps = timeline.frame.loc[timeline.frame["step"] >= 1, "step"].nunique()
    return (
        f"{len(timeline.frame):,} tasks in {units.seconds(end_s - start_s)}, "
        f"{steps:,} decode step{'' if steps == 1 else 's'}. "
        "Drag to move, scroll to zoom, double-click to return."
    )
