"""A calibration as one page: what was fitted, how well, and what was measured."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports import units
from reports.calibration_figures import (
    CLOSE,
    copies_figure,
    pairs_figure,
    residual_figure,
    steady_figure,
    threads_figure,
)
from reports.calibration_table import (
    RUNS,
    Calibration,
    Check,
    fits_line,
    run_cells,
    value_cells,
    verdict,
)
from reports.files import write_text
from reports.html_parts import note, table
from reports.page import document, still

DEVICES = {"gpu": "GPU", "cpu": "CPU", "links": "Links"}
VALUES = ("value", "used", "95 % from", "to", "source")
RESIDUALS = (
    "Each point is an operation of a run, or a copy: the seconds that the fitted costs give it "
    f"over the median of those it took. The band is within {100 * CLOSE:.0f} %."
)
COPIES = "Points were measured, lines are as fitted: bytes, and a fixed cost for each copy."
PAIRS = (
    "Two streams at work at once. gemm: the device multiplies; read: the CPU reads memory; pin: "
    "the copy to pinned memory; h2d and d2h: copies to and from the device."
)
STEADY = (
    "The same short probes between the benches. copy and gemm: the fastest turn's time over this "
    "one's; share: what threads got of the processors."
)


def write_calibration(found: Calibration, path: str | Path, check: Check | None = None) -> None:
    """Write a calibration as a self-contained HTML page that opens offline.

    Parameters
    ----------
    found: what `sim.calibration.summary` writes.
    check: what `moelab calibrate --check` writes: runs that it was not fitted to.

    Raises `BadInput` when the file cannot be written; it appears whole or not at all.
    """
    title = f"Calibration of {found['name']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='lead'>{html.escape(fits_line(found))}</p>",
        f"<p class='why'>{html.escape(str(found['description']))}</p>",
        *_warnings(found["warnings"]),
        *(_check(check) if check else ()),
        "<h2>Values</h2>",
        table(VALUES, map(_value_row, found["values"]), 1),
        *_figures(found),
        *_origin(found["provenance"]),
    ]
    write_text(path, document(title, "\n".join(parts)))


def _warnings(warnings: Sequence[str]) -> Iterator[str]:
    if warnings:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in warnings)
        yield f"<h2>Warnings</h2><ul class='why'>{lines}</ul>"


def _check(check: Check) -> Iterator[str]:
    yield "<h2>Runs that it was not fitted to</h2>"
    yield f"<p>{html.escape(' '.join(verdict(check)))}</p>"
    headers = [name.replace("\n", " ").strip() for name in RUNS]
    yield table(headers, map(run_cells, check["runs"]), 1)


def _value_row(row: Mapping[str, Any]) -> Sequence[str]:
    return *value_cells(row), str(row["source"])


def _figures(found: Calibration) -> Iterator[str]:
    """Those for which something was measured."""
    if any(found["residuals"].values()):
        yield f"<h2>Modelled and measured</h2>{note(RESIDUALS)}"
    for what, rows in found["residuals"].items():
        if rows:
            yield f"<h3>{DEVICES[what]}</h3>{still(f'residuals-{what}', residual_figure(rows))}"
    if rows := found["copies"]:
        yield f"<h2>Copies by size</h2>{note(COPIES)}{still('copies', copies_figure(rows))}"
    if rows := found["pairs"]:
        yield f"<h2>Together and alone</h2>{note(PAIRS)}{still('pairs', pairs_figure(rows))}"
    if rows := found["threads"]:
        yield f"<h2>By threads</h2>{still('threads', threads_figure(rows))}"
    if rows := found["steady"]:
        yield f"<h2>Steadiness</h2>{note(STEADY)}{still('steady', steady_figure(rows))}"


def _origin(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts:
        rows = [(key, str(value)) for key, value in units.flatten(facts).items()]
        facts_html = table(("fact", "value"), rows, 2)
        yield f"<footer><h2>Where the numbers come from</h2>{facts_html}</footer>"
