"""A run and its simulation as one page: both timelines, errors, and what they are due to."""

import html
from collections.abc import Iterable, Sequence
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
        _table(TIMES, time_rows(found), 1),
        "<h2>From simulated to measured</h2>",
        _note(_axis(found)),
        still("gap", gap_figure(found)),
        _table(GAPS, gap_rows(found), 1),
        "<h2>The same step on both clocks</h2>",
        _note(
            "Each phase begins at the same moment on both clocks; 0 is where the middle decode "
            f"step begins.{several} Drag to move, scroll to zoom, double-click to return."
        ),
        zoomable("lanes", figure, [panel]),
        _note(notes([panel], zooming=True)[0]),
        *(f"<p>{html.escape(line)}</p>" for line in partings(found)),
        "<h2>Operations</h2>",
        _table(OPERATIONS, operation_rows(found), 3),
        _note(WORTH),
        still("tasks", scatter_figure(measured.frame, simulated.frame, colours)),
        "<h2>Streams</h2>",
        _table(STREAMS, stream_rows(found), 1),
        "<footer><h2>Where the numbers come from</h2>",
        f"{provenance_html([_short(found)])}</footer>",
    ]
    write_text(path, document(title, "\n".join(parts)))


def _axis(found: Comparison) -> str:
    begin_s = axis_of(found)[0]
    cut = f" The axis begins at {units.seconds(begin_s)}." if begin_s else ""
    return f"Each bar begins where the one above it ends.{cut}"


def _note(text: str) -> str:
    return f"<p class='note'>{html.escape(text)}</p>"


def _short(found: Comparison) -> Comparison:
    """Without what would fill a page: lengths of all prompts, the model's widths."""
    origin = found["provenance"]
    presets = {
        key: value
        for key, value in origin.get("presets", {}).items()
        if key not in ("prompt_lengths", "model_spec")
    }
    kept = {key: origin[key] for key in ("version", "seed", "command", "date") if key in origin}
    return dict(found) | {"provenance": kept | {"presets": presets}}


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """The first `words` columns are text."""
    kinds = ["text"] * words + [""] * (len(headers) - words)
    head = _cells("th", kinds, [header[:1].upper() + header[1:] for header in headers])
    body = "".join(_cells("td", kinds, row) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _cells(tag: str, kinds: Sequence[str], texts: Sequence[str]) -> str:
    inner = "".join(
        f'<{tag} class="{kind}">{html.escape(text)}</{tag}>'
        for kind, text in zip(kinds, texts, strict=True)
    )
    return f"<tr>{inner}</tr>"
