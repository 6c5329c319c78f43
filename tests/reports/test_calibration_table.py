"""Fitted values and held-out runs in the terminal."""

from io import StringIO

from rich.console import Console

from reports.calibration_table import RUNS, check_table, run_cells, values_table, verdict
from tests.reports.calibrations import calibration, check, ran


def printed(table: object, width: int = 80) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_fitted_values_with_their_intervals() -> None:
    """Those that were stated are left out; one has no upper end."""
    lines = printed(values_table(calibration()))
    assert [line.split() for line in lines] == [
        ["value", "fitted", "95", "%", "from", "to"],
        ["gpu.memory_bandwidth", "2.00", "GB/s", "1.50", "GB/s", "2.50", "GB/s"],
        ["links.h2d", "1.00", "GB/s", "900", "MB/s", "–"],
    ]


def test_held_out_runs() -> None:
    lines = [line.split() for line in printed(check_table(check()))]
    assert " ".join(lines[2]) == "cgopipe 32 / 8 64.5 12 10.0 10.3 +3.0 % -2.0 % +1.0 %"
    assert lines[3][-5:] == ["-20.0", "%", "-2.0", "%", "–"]
    assert len(run_cells(ran("cgopipe", 0.0))) == len(RUNS)


def test_large_errors_stand_out() -> None:
    column = check_table(check()).columns[RUNS.index("error of\nmakespan")]
    assert [str(cell.style) for cell in column.cells] == ["green", "bold red"]  # type: ignore[union-attr]


def test_runs_fit_into_a_terminal_of_eighty_columns() -> None:
    one = ran("zero-inference", -0.6) | {"policy": {"N": 48, "mu": 48}, "measured_s": 5.293}
    lines = printed(check_table(check() | {"runs": [one]}))
    assert "…" not in "".join(lines)
    assert lines[2].startswith("zero-inference 48 / 48   64.5     12     5.29 ")


def test_verdict() -> None:
    assert list(verdict(check())) == [
        "Error of the makespan over 2 held-out runs: median 12 %, worst 20 %.",
        "The schedules rank as measured.",
        "Noise floor, the same run measured twice: 1.2 %.",
    ]
    other = list(verdict(check() | {"same_ranking": False}))
    assert other[1] == "The schedules do not rank as measured."
