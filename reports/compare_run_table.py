"""A run beside its simulation, in words and numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units

Comparison = Mapping[str, Any]
"""What `moelab compare-run --json` writes."""

Row = Sequence[str]

CAUSES = {
    "stream": "the task before it there",
    "dependency": "which it needs",
    "thread": "for which the issuing thread had stopped",
}

PHASES = {"prefill_s": "prefill", "decode_s": "decode", "makespan_s": "makespan"}
PARTS = {
    "operations": "operations",
    "host": "issuing and synchronising",
    "interaction": "no part alone",
    "between": "waiting between tasks",
    "around": "before the first task, after the last",
    "total": "measured - simulated",
}
TIMES = ("phase", "measured s", "replayed s", "simulated s", "error")
GAPS = ("measured - simulated, due to", "prefill", "decode", "makespan")
STREAMS = ("stream", "measured s", "simulated s", "error")
OPERATIONS = (
    *("phase", "operation", "stream", "tasks", "measured s", "simulated s", "error"),
    *("makespan", "share", "late"),
)


SMALLEST_S = 5e-8
"""Differences below it are noise of any clock, or of adding up."""


def signed(value: float) -> str:
    """A difference of times.

    >>> signed(0.0123), signed(-1.5), signed(1e-9)
    ('+12.3 ms', '-1.50 s', '0')
    """
    if abs(value) < SMALLEST_S:
        return "0"
    return f"{'+' if value > 0 else '-'}{units.seconds(abs(value))}"


def per_cent(error: float | None) -> str:
    """An error with its sign.

    >>> per_cent(-0.0187), per_cent(None)
    ('-1.9 %', '–')
    """
    return units.DASH if error is None else f"{100 * error:+.1f} %"


def headline(found: Comparison) -> str:
    """The error, in a sentence.

    >>> headline({"schedule": "a", "hardware": "box", "measured": {"makespan_s": 2.0},
    ...           "simulated": {"makespan_s": 1.9}, "error": {"makespan_s": -0.05}})
    'a on box: measured 2.00 s, simulated 1.90 s (-5.0 %).'
    """
    measured, simulated = (
        units.seconds(found[clock]["makespan_s"]) for clock in ("measured", "simulated")
    )
    return (
        f"{found['schedule']} on {found['hardware']}: measured {measured}, simulated {simulated} "
        f"({per_cent(found['error']['makespan_s'])})."
    )


def circumstances(found: Comparison) -> list[str]:
    """What of the machine the run has decided, in sentences."""
    lines = [f"Replaced in {found['hardware']}: {change}." for change in found["changes"]]
    if found.get("threads"):
        device, cpu = found["threads"]
        lines.append(f"Threads of the run: {device} for the device, {cpu} for the CPU.")
    return lines


def sentences(found: Comparison) -> list[str]:
    """What stands above the tables."""
    return [headline(found), *circumstances(found)]


def time_rows(found: Comparison) -> Iterator[Row]:
    """Prefill, decode and makespan on the three clocks, and the error of the simulated one."""
    for key, phase in PHASES.items():
        times = [found[clock][key] for clock in ("measured", "replayed", "simulated")]
        yield [phase, *map(units.significant, times), per_cent(found["error"][key])]


def gap_rows(found: Comparison) -> Iterator[Row]:
    """What the difference is due to, and where channels are shared how much they lengthen."""
    gaps = found["gap_s"].values()
    for key, words in PARTS.items():
        yield [words, *(signed(gap[key]) for gap in gaps)]
    if any(gap["contention"] for gap in gaps):
        yield ["(simulated contention)", *(signed(gap["contention"]) for gap in gaps)]


def stream_rows(found: Comparison) -> Iterator[Row]:
    """Busy seconds of each stream."""
    for stream, measured in found["busy_s"]["measured"].items():
        simulated = found["busy_s"]["simulated"][stream]
        times = map(units.significant, (measured, simulated))
        yield [stream, *times, per_cent(found["busy_error"][stream])]


def operation_rows(found: Comparison) -> Iterator[Row]:
    """Each operation on its stream, in prefill and in decode."""
    before = ""
    for row in found["operations"]:
        phase, before = row["phase"] if row["phase"] != before else "", row["phase"]
        yield [
            *(phase, row["op"], row["stream"], f"{row['tasks']:,}"),
            *(units.significant(row[key]) for key in ("measured_s", "simulated_s")),
            per_cent(row["error"]),
            signed(row["worth_s"]),
            units.DASH if row["share"] is None else units.percent(row["share"]),
            signed(row["late_s"]).removeprefix("+"),
        ]


def tables(found: Comparison) -> list[Table]:
    """All numbers for the terminal."""
    return [
        _table(TIMES, time_rows(found), 1),
        _table(GAPS, gap_rows(found), 1),
        _table(STREAMS, stream_rows(found), 1),
        _table(OPERATIONS, operation_rows(found), 3),
    ]


def partings(found: Comparison) -> list[str]:
    """Where prefill and decode part, in a sentence each: the first phase of either that does."""
    lines = []
    for name, chosen in (("Prefill", lambda step: step == 0), ("Decode", lambda step: step > 0)):
        apart = [one for one in found["divergences"] if chosen(one["step"])]
        lines.append(parting(name, apart[0]) if apart else f"{name}: the clocks do not part.")
    return lines


def parting(name: str, one: Mapping[str, Any]) -> str:
    """Which task starts at another time than simulated, and what it waited for."""
    where = f" (step {one['step']})" if one["step"] else ""
    return (
        f"{name}{where} parts by more than {units.seconds(one['tolerance_s'])} at "
        f"{task_words(one)}: measured {_start(one['measured'])}; "
        f"simulated {_start(one['simulated'])}."
    )


def task_words(place: Mapping[str, Any]) -> str:
    """A task, its stream, layer and micro-batch.

    >>> task_words({"op": "load", "stream": "h2d", "layer": 3, "micro_batch": -1})
    'load on h2d (layer 3)'
    """
    parts = [("layer", place["layer"]), ("micro-batch", place["micro_batch"])]
    inner = ", ".join(f"{word} {value}" for word, value in parts if value >= 0)
    return f"{place['op']} on {place['stream']}{f' ({inner})' if inner else ''}"


def _start(clock: Mapping[str, Any]) -> str:
    """When it started, and after what."""
    start = units.seconds(clock["start_s"])
    if clock["cause"] == "nothing":
        return f"at {start}, after no other task"
    late = units.seconds(clock["late_s"]) if clock["late_s"] >= SMALLEST_S else "right"
    return (
        f"at {start}, {late} after {task_words(clock)}, {CAUSES[clock['cause']]}, and which took "
        f"{units.seconds(clock['took_s'])}"
    )


def _table(headers: Row, rows: Iterable[Row], words: int) -> Table:
    """The first `words` columns are text."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
