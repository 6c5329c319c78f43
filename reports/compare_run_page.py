"""A run and its simulation as one page: both timelines, errors, and what they are due to."""

import html
from pathlib import Path

from reports import units
from reports.compare_run_figures import axis_of, gap_figure, scatter_figure
from reports.compare_run_lanes import lanes
from reports.compare_run_table import (
    GAPS,
    OPERATIONS,
    STREAMS,
    TIMES,
    Comparison,
    circumstances,
    gap_rows,
    headline,
    operation_rows,
    partings,
    stream_rows,
    time_rows,
)
from reports.compare_table import provenance_html
from reports.files import write_text
from reports.html_parts import note, table, with_short_origin
from reports.page import document, still, zoomable
from reports.palette import op_colours
from reports.timeline_figure import notes
from schedules.timeline import Timeline

CLOCKS = (
    "Measured is the run; replayed the simulator with the measured duration of every task and the "
    "run's own issuing time; simulated the simulator with this machine's. Measured - replayed is "
    "waiting that the simulator does not know, replayed - simulated is durations."
)
WORTH = (
    "Makespan: by how much measured durations of this operation alone lengthen the makespan (mean "
    "of exchanging them in the simulated and in the measured ones). Share: of all parts, without "
    "regard to signs. Late: on the chain of tasks that decided each measured phase, the time "
    "between the end of what a task waited for and its start."
)


def write_comparison(
    found: Comparison, measured: Timeline, simulated: Timeline, path: str | Path
) -> None:
    """Write a compared run as a self-contained HTML page that opens offline.

    Parameters
    ----------
    found: what `moelab compare-run --json` writes.
    measured, simulated: a batch on both clocks, task by task in the same order, phases beginning at
        the same moments.

    Raises `BadInput` when a timeline has no tasks that take time, or the file cannot be written.
    """
    figure, panel = lanes(measured, simulated)
    colours = op_colours([measured])
    several = " Of several batches the first is shown." if found["batches"] > 1 else ""
    title = f"{found['schedule']}: measured and simulated"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='lead'>{html.escape(headline(found))}</p>",
        f"<p class='why'>{html.escape(' '.join([CLOCKS, *circumstances(found)]))}</p>",
        table(TIMES, time_rows(found), 1),
        "<h2>From simulated to measured</h2>",
        note(_axis(found)),
        still("gap", gap_figure(found)),
        table(GAPS, gap_rows(found), 1),
        "<h2>The same step on both clocks</h2>",
        note(
            "Each phase begins at the same moment on both clocks; 0 is where the middle decode "
            f"step begins.{several} Drag to move, scroll to zoom, double-click to return."
        ),
        zoomable("lanes", figure, [panel]),
        note(notes([panel], zooming=True)[0]),
        *(f"<p>{html.escape(line)}</p>" for line in partings(found)),
        "<h2>Operations</h2>",
        table(OPERATIONS, operation_rows(found), 3),
        note(WORTH),
        still("tasks", scatter_figure(measured.frame, simulated.frame, colours)),
        "<h2>Streams</h2>",
        table(STREAMS, stream_rows(found), 1),
        "<footer><h2>Where the numbers come from</h2>",
        f"{provenance_html([with_short_origin(found)])}</footer>",
    ]
    write_text(path, document(title, "\n".join(parts)))


def _axis(found: Comparison) -> str:
    begin_s = axis_of(found)[0]
    cut = f" The axis begins at {units.seconds(begin_s)}." if begin_s else ""
    return f"Each bar begins where the one above it ends.{cut}"
