"""A calibration in tables: fitted values with their intervals, and runs it was not fitted to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units

Calibration = Mapping[str, Any]
"""What `sim.calibration.summary` writes."""
Check = Mapping[str, Any]
"""What `moelab calibrate --check` writes: `runs`, and what they say together."""

VALUES = ("value", "fitted", "95 % from", "to")
RUNS = (
    "schedule",
    "N / mu",
    "prompt\ntokens",
    "output\ntokens",
    "measured\ns",
    "simulated\ns",
    "error of\nmakespan",
    "\nprefill",
    "\ndecode",
)
ERRORS = ("error", "prefill_error", "decode_error")

LARGE_ERROR = 0.10
"""Relative errors above this stand out."""


def values_table(found: Calibration) -> Table:
    """The fitted values and their intervals; those that were stated or copied are left out."""
    table = _table(VALUES, 1)
    for row in fitted(found):
        table.add_row(*map(Text, value_cells(row)))
    return table


def fitted(found: Calibration) -> list[Mapping[str, Any]]:
    """The values that have an interval."""
    return [row for row in found["values"] if row["low"] is not None]


def value_cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Key, value and the ends of its interval.

    >>> value_cells({"key": "links.h2d", "value": 2e9, "low": None, "high": None, "unit": "B/s"})
    ('links.h2d', '2.00 GB/s', '–', '–')
    """
    ends = (row["low"], row["high"])
    low, high = (units.DASH if end is None else said(end, row["unit"]) for end in ends)
    return row["key"], said(row["value"], row["unit"]), low, high


def said(value: float | bool, unit: str) -> str:
    """A value with its unit.

    >>> said(4e-6, "s"), said(2e9, "B/s"), said(False, ""), said(1.77, "threads")
    ('4.00 µs', '2.00 GB/s', 'no', '1.77 threads')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "s":
        return units.seconds(value)
    if unit.startswith(("B", "flop")):
        return units.amount(value, unit)
    return f"{units.significant(value)} {unit}".rstrip()


def fits_line(found: Calibration) -> str:
    """How closely the fits meet the measurements.

    >>> fit = {"measurements": 40, "median_abs_error": 0.034}
    >>> fits_line({"fits": {"gpu": fit}})
    'Median error of the fits: gpu 3.4 % (40 measurements).'
    """
    each = (
        f"{what} {units.percent(fit['median_abs_error'])} ({fit['measurements']} measurements)"
        for what, fit in found["fits"].items()
    )
    return f"Median error of the fits: {', '.join(each)}."


def check_table(check: Check) -> Table:
    """A row for each held-out run; large errors of the makespan stand out. Below, the whole."""
    table = _table(RUNS, 1)
    for run in check["runs"]:
        style = "bold red" if abs(run["error"]) > LARGE_ERROR else "green"
        cells = [Text(cell) for cell in run_cells(run)]
        cells[RUNS.index("error of\nmakespan")].style = style
        table.add_row(*cells)
    table.caption = Text("\n".join(verdict(check)))
    return table


def run_cells(run: Mapping[str, Any]) -> list[str]:
    """As in `RUNS`."""
    lengths = [units.significant(run["prompt_len"]), str(run["gen_len"])]
    times = [units.significant(run[key]) for key in ("measured_s", "simulated_s")]
    return [
        str(run["schedule"]),
        units.batch_size(run["policy"]),
        *lengths,
        *times,
        *(signed(run.get(key)) for key in ERRORS),
    ]


def verdict(check: Check) -> Iterator[str]:
    """Errors of the makespans, the order of the schedules, and the noise floor, in sentences."""
    errors = ((what, check[f"{what}_abs_error"]) for what in ("median", "worst"))
    said_errors = ", ".join(f"{what} {units.percent(error)}" for what, error in errors)
    yield f"Error of the makespan over {len(check['runs'])} held-out runs: {said_errors}."
    ranked = "rank" if check["same_ranking"] else "do not rank"
    yield f"The schedules {ranked} as measured{_in_order(check)}."
    yield f"Noise floor, the same run measured twice: {units.percent(check['noise_floor'])}."


def _in_order(check: Check) -> str:
    """How many pairs of schedules have the measured order, where it was counted.

    >>> _in_order({"pairs": 6, "pairs_in_order": 5})
    ' (5 of 6 pairs are in order)'
    """
    if not check.get("pairs"):
        return ""
    return f" ({check['pairs_in_order']} of {check['pairs']} pairs are in order)"


def signed(error: float | None) -> str:
    """A relative error.

    >>> signed(-0.0187), signed(None)
    ('-1.9 %', '–')
    """
    return units.DASH if error is None else f"{100 * error:+.1f} %"


def _table(headers: Sequence[str], words: int) -> Table:
    """The first `words` columns are text."""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        caption_justify="left",
        caption_style="",
    )
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < words else "right", no_wrap=True)
    return table
