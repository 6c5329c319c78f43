"""A schedule's order and a better one below each other, as lanes on a page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports import units
from reports.files import write_text
from reports.html_parts import note
from reports.lanes import make_panel
from reports.optimal_table import binds, changes_lines, headline, what
from reports.page import document, without_tasks, zoomable
from reports.palette import op_colours
from reports.timeline_figure import notes, stacked_figure
from reports.timeline_page import PAGE_TASKS
from reports.windows import whole
from schedules.timeline import Timeline


def write_optimal(
    found: Mapping[str, Any], timelines: Sequence[Timeline], path: str | Path
) -> None:
    """Write both timelines as a self-contained HTML page that opens offline.

    `timelines`: the schedule's and the better one, each from 0 on. Raises `BadInput` when the file
    cannot be written.
    """
    windows = [whole(timeline) for timeline in timelines]
    window = 0.0, max(end for _, end in windows)
    panels = [
        make_panel(timeline, window, PAGE_TASKS, title=f"<b>{units.plain(timeline.name)}</b>")
        for timeline in timelines
    ]
    bare = [without_tasks(panel) for panel in panels]
    figure = stacked_figure(bare, window, {"Whole": window}, op_colours(list(timelines)))
    title = f"{found['schedule']} and the best order of its tasks"
    sentences = [what(found), headline(found), binds(found)]
    changes = "".join(f"<li>{html.escape(line)}</li>" for line in changes_lines(found))
    body = (
        f"<h1>{html.escape(title)}</h1>\n<p class='lead'>{html.escape(' '.join(sentences))}</p>\n"
        f"{zoomable('orders', figure, panels)}<ul>{changes}</ul>"
        f"{note(' '.join(notes(panels, zooming=True)))}"
    )
    write_text(path, document(title, body))
