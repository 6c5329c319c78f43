"""Simulated beside measured, in numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units

Replayed = Mapping[str, Any]
"""What `moelab replay --json` writes for one run."""

CLOCKS = ("measured", "simulated")
TIMES = ("schedule", "phase", "measured s", "simulated s", "error")
BUSY = ("schedule", "stream", "busy s", "of measured", "of simulated")
PHASES = {"prefill_s": "prefill", "decode_s": "decode", "makespan_s": "makespan"}


Row = Sequence[str]


def error_of(replayed: Replayed, key: str = "makespan_s") -> str:
    """By how much the simulated time is off.

    >>> error_of({"error": {"makespan_s": -0.0187}})
    '-1.9 %'
    """
    value = replayed["error"][key]
    return units.DASH if value is None else f"{100 * value:+.1f} %"


def labels(replays: Sequence[Replayed]) -> list[str]:
    """The schedules; with the folder of the run where a schedule comes twice.

    >>> labels([{"schedule": "a", "run": "x"}, {"schedule": "a", "run": "y"}])
    ['a (x)', 'a (y)']
    """
    names = [replayed["schedule"] for replayed in replays]
    return [
        name if names.count(name) == 1 else f"{name} ({replayed['run']})"
        for name, replayed in zip(names, replays, strict=True)
    ]


def time_rows(replays: Sequence[Replayed]) -> Iterator[Row]:
    """Schedule, phase, seconds measured and simulated, error: a row for each phase of each run."""
    for name, replayed in zip(labels(replays), replays, strict=True):
        for key, phase in PHASES.items():
            times = [units.significant(replayed[clock][key]) for clock in CLOCKS]
            yield [name, phase, *times, error_of(replayed, key)]
            name = ""


def busy_rows(replays: Sequence[Replayed]) -> Iterator[Row]:
    """Schedule, stream, busy seconds, their share of the measured and the simulated makespan.

    Streams that did nothing are left out.
    """
    for name, replayed in zip(labels(replays), replays, strict=True):
        for stream, busy_s in replayed["busy_s"].items():
            if busy_s:
                shares = [units.percent(replayed["utilization"][c][stream]) for c in CLOCKS]
                yield [name, stream, units.significant(busy_s), *shares]
                name = ""


def times_table(replays: Sequence[Replayed]) -> Table:
    """Prefill, decode and makespan on both clocks, for the terminal."""
    return _table(TIMES, time_rows(replays))


def busy_table(replays: Sequence[Replayed]) -> Table:
    """What each stream worked, for the terminal."""
    return _table(BUSY, busy_rows(replays))


def _table(headers: Sequence[str], rows: Iterator[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
