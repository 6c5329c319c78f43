"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units
from reports.story import Result, busiest, feasible, over_bound

LARGE_ERROR = 0.30
"""Relative errors above this stand out."""

RESULT_COLUMNS = (
    "tokens/s",
    "prefill s",
    "decode s",
    "TPOT s",
    "busiest",
    "x bound",
    "N / mu",
)


def results_table(results: Sequence[Result]) -> Table:
    """One row per schedule, the fastest first; those that do not fit last, the reasons below.

    `busiest` is the stream that works most and its share of the makespan; `x bound` is the makespan
    over its lower bound; N and mu count sequences.
    """
    table = _table()
    table.add_column("schedule", no_wrap=True)
    for name in RESULT_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for i, result in enumerate(feasible(results)):
        table.add_row(Text(result["schedule"]), *_numbers(result), style="bold" if i == 0 else None)
    misfits = [result for result in results if not result["feasible"]]
    for result in misfits:
        blanks = [units.DASH] * (len(RESULT_COLUMNS) - 1)
        size = units.batch_size(result.get("policy") or {})
        table.add_row(Text(result["schedule"]), *blanks, size, style="dim")
    reasons = [
        f"{r['schedule']} does not fit: {r.get('reason', 'no reason given')}" for r in misfits
    ]
    if reasons:
        table.caption = Text("\n".join(reasons), style="yellow")
    return table


def validation_table(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, float]]
) -> Table:
    """Published against simulated numbers, source by source; large errors stand out.

    Parameters
    ----------
    rows: `id`, `source`, `published` and `simulated` (in the same unit), and `error`, the relative
        error of the simulated number (0.1 is 10 % too high), which is worked out if it is missing.
    summary: for each source, named figures to stand below: whole numbers are counts, others are
        shares.
    """
    table = _table()
    table.add_column("id", overflow="fold")
    for name in ("published", "simulated", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold")
    sources = list(dict.fromkeys(row["source"] for row in rows))
    for row in sorted(rows, key=lambda row: sources.index(row["source"])):
        table.add_row(*_validation_row(row))
    table.caption = Text("\n".join(_figures(name, figures) for name, figures in summary.items()))
    return table


def catalogue_table(title: str, entries: Sequence[Mapping[str, object]]) -> Table:
    """What there is to choose from: a row per entry, a column per key, in order of appearance.

    Keys that end in `_bytes`, `_bytes_per_s` or `parameters` are shown with their unit; `source` is
    left to the JSON.
    """
    columns = list(dict.fromkeys(key for entry in entries for key in entry if key != "source"))
    table = _table()
    table.title = Text(title)
    for i, column in enumerate(columns):
        table.add_column(Text(_heading(column)), no_wrap=i == 0, overflow="fold")
    for entry in entries:
        table.add_row(*(Text(_quantity(column, entry.get(column))) for column in columns))
    return table


UNITS = {"_bytes_per_s": "B/s", "_bytes": "B"}


def _heading(key: str) -> str:
    if key.endswith("memory_bytes_per_s"):
        return key.removesuffix("_bytes_per_s").replace("_", " ") + " rate"
    for suffix in UNITS:
        key = key.removesuffix(suffix)
    return key.replace("_", " ")


def _quantity(key: str, value: object) -> str:
    if isinstance(value, int | float) and key.endswith("parameters"):
        return f"{value / 1e9:.3g} billion"
    for suffix, unit in UNITS.items():
        if isinstance(value, int | float) and key.endswith(suffix):
            return units.amount(value, unit)
    return _cell(value)


def _table() -> Table:
    return Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="",
    )


def _numbers(result: Result) -> list[str]:
    stream, share = busiest(result)
    times = [result[name] for name in ("throughput_tok_s", "prefill_s", "decode_s", "tpot_s")]
    return [
        *(units.DASH if value is None else units.significant(value) for value in times),
        f"{stream} {units.percent(share)}",
        f"{over_bound(result):.2f}",
        units.batch_size(result["policy"]),
    ]


def _validation_row(row: Mapping[str, Any]) -> list[Text]:
    error = row.get("error")
    if error is None:
        error = row["simulated"] / row["published"] - 1
    style = "bold red" if abs(error) > LARGE_ERROR else "green"
    return [
        Text(str(row["id"])),
        Text(units.significant(row["published"])),
        Text(units.significant(row["simulated"])),
        Text(f"{100 * error:+.0f} %", style=style),
        Text(str(row["source"])),
    ]


def _figures(source: str, figures: Mapping[str, float]) -> str:
    """The figures of a source in a line.

    >>> _figures("table 4", {"points": 12, "median_error": 0.081})
    'table 4: points 12, median error 8.1 %'
    """
    words = (
        f"{name.replace('_', ' ')} {value if isinstance(value, int) else units.percent(value)}"
        for name, value in figures.items()
    )
    return f"{source}: {', '.join(words)}"


def _cell(value: object) -> str:
    if value is None:
        return units.DASH
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return units.significant(value) if isinstance(value, float) else str(value)
