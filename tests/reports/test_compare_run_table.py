"""A compared run in words and numbers."""

from io import StringIO

import pytest
from rich.console import Console

from reports.compare_run_table import (
    circumstances,
    gap_rows,
    operation_rows,
    partings,
    sentences,
    stream_rows,
    tables,
    time_rows,
)
from tests.reports.compared_runs import compared


def printed(table: object) -> list[list[str]]:
    out = StringIO()
    Console(file=out, width=160).print(table)
    return [line.split() for line in out.getvalue().splitlines()]


def test_the_error_and_the_circumstances() -> None:
    assert sentences(compared()) == [
        "double<buffer on box: measured 25.0 s, simulated 16.0 s (-36.0 %).",
        "Replaced in box: h2d at 0.5 GB/s, as the run held its link.",
        "Threads of the run: 2 for the device, 1 for the CPU.",
    ]


def test_a_run_that_says_nothing_of_its_link_and_threads() -> None:
    assert circumstances(compared(changes=[], threads=None)) == []


def test_times() -> None:
    assert list(time_rows(compared())) == [
        ["prefill", "12.0", "11.0", "8.00", "-33.3 %"],
        ["decode", "13.0", "11.0", "8.00", "-38.5 %"],
        ["makespan", "25.0", "22.0", "16.0", "-36.0 %"],
    ]


def test_what_the_gap_is_due_to() -> None:
    assert list(gap_rows(compared())) == [
        ["operations", "+3.00 s", "+3.00 s", "+6.00 s"],
        ["issuing and synchronising", "0", "0", "0"],
        ["no part alone", "0", "0", "0"],
        ["waiting between tasks", "+500 ms", "+500 ms", "+1.00 s"],
        ["before the first task, after the last", "+500 ms", "+1.50 s", "+2.00 s"],
        ["measured - simulated", "+4.00 s", "+5.00 s", "+9.00 s"],
    ]


def test_contention_is_told_where_there_is_some() -> None:
    found = compared()
    found["gap_s"]["decode"]["contention"] = found["gap_s"]["makespan"]["contention"] = 0.5
    assert list(gap_rows(found))[-1] == ["(simulated contention)", "0", "+500 ms", "+500 ms"]


def test_streams() -> None:
    assert list(stream_rows(compared())) == [
        ["h2d", "12.0", "12.0", "+0.0 %"],
        ["gpu", "18.0", "12.0", "-33.3 %"],
    ]


def test_operations_name_their_phase_once() -> None:
    compute = ["compute", "gpu", "3", "9.00", "6.00", "-33.3 %", "+3.00 s", "33 %", "500 ms"]
    load = ["load", "h2d", "3", "6.00", "6.00", "+0.0 %", "0", "0 %", "0"]
    assert list(operation_rows(compared())) == [
        ["prefill", *compute],
        ["", *load],
        ["decode", *compute],
        ["", *load],
    ]


def test_no_share_of_nothing() -> None:
    found = compared()
    for row in found["operations"]:
        row["share"] = None
    assert [row[8] for row in operation_rows(found)] == ["–"] * 4


def test_where_the_clocks_part() -> None:
    first, second = partings(compared())
    rest = (
        "parts by more than 115 ms at compute on gpu (layer 0): measured at 2.25 s, 250 ms after "
        "load on h2d (layer 0), which it needs, and which took 2.00 s; simulated at 2.00 s, right "
        "after load on h2d (layer 0), which it needs, and which took 2.00 s."
    )
    assert first == f"Prefill {rest}"
    assert second == f"Decode (step 1) {rest}"


@pytest.mark.parametrize(("kept", "lines"), [(0, 2), (1, 1)])
def test_where_they_do_not(kept: int, lines: int) -> None:
    found = compared()
    found["divergences"] = found["divergences"][:kept]
    assert sum("the clocks do not part" in line for line in partings(found)) == lines


def test_a_task_after_no_other() -> None:
    found = compared()
    found["divergences"][0]["measured"] = {"start_s": 1.0, "cause": "nothing", "late_s": 1.0}
    assert "measured at 1.00 s, after no other task; simulated" in partings(found)[0]


def test_the_tables_of_the_terminal() -> None:
    found = [printed(table) for table in tables(compared())]
    assert [len(rows) for rows in found] == [4, 7, 3, 5]
    assert found[0][0] == ["phase", "measured", "s", "replayed", "s", "simulated", "s", "error"]
    assert found[3][2][:2] == ["load", "h2d"]
