"""Tables for the terminal."""

from collections.abc import Callable
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from reports.tables import catalogue_table, results_table, validation_table


def lines(table: Table, width: int = 100, colour: bool = False) -> list[str]:
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(width=width, force_terminal=colour, color_system=system)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_results_by_rank(results: list[dict[str, Any]]) -> None:
    header, fast, slow, big, why = lines(results_table(results))
    assert header.split()[:3] == ["schedule", "tokens/s", "prefill"]
    assert " ".join(fast.split()) == "fast 50.0 20.0 80.0 1.25 h2d 80 % 1.25 504 / 36"
    assert slow.split()[:2] == ["slow", "20.0"]
    assert big.split() == ["big", *"–––––––"]
    assert why.strip() == "big does not fit: pool 'gpu' is too small"


def test_results_fit_into_eighty_columns(result: Callable[..., dict[str, Any]]) -> None:
    wide = result("zero-inference", 1234.5, gpu=99.9)
    wide |= {"prefill_s": 1777.5, "decode_s": 12_345.0, "policy": {"N": 1472, "mu": 64}}
    found = lines(results_table([wide]), width=80)
    assert len(found) == 2
    assert "1,234" in found[1]
    assert found[1].endswith("1472 / 64")
    assert "gpu 99.9 %" in found[1]


def test_a_single_token_has_no_time_per_output_token(
    result: Callable[..., dict[str, Any]],
) -> None:
    assert lines(results_table([result("a", 5.0) | {"tpot_s": None}]))[1].split()[4] == "–"


def test_names_are_no_markup(result: Callable[..., dict[str, Any]]) -> None:
    assert "[red]a[/red]" in "\n".join(lines(results_table([result("[red]a[/red]", 5.0)])))


ROWS = [
    {"id": "S1/cgopipe", "source": "table 4", "published": 26.3, "simulated": 30.1},
    {"id": "fig7", "source": "figure 7", "published": 8.0, "simulated": 8.4, "error": 0.05},
    {"id": "S1/flexgen", "source": "table 4", "published": 10.0, "simulated": 6.5, "error": -0.35},
]


def test_validation_rows_stand_source_by_source_above_the_summary() -> None:
    table = validation_table(ROWS, {"table 4": {"points": 2, "median_error": 0.249}})
    _, first, second, third, summary = lines(table)
    assert " ".join(first.split()) == "S1/cgopipe 26.3 30.1 +14 % table 4"
    assert " ".join(second.split()) == "S1/flexgen 10.0 6.50 -35 % table 4"
    assert " ".join(third.split()) == "fig7 8.00 8.40 +5 % figure 7"
    assert summary.strip() == "table 4: points 2, median error 25 %"


def test_validation_colours_large_errors() -> None:
    _, good, bad, *_ = lines(validation_table(ROWS, {}), colour=True)
    assert "\x1b[32m+14 %" in good
    assert "\x1b[1;31m-35 %" in bad


def test_catalogue_has_a_column_per_key_and_a_dash_where_there_is_nothing() -> None:
    entries = [{"name": "mixtral", "layers": 32}, {"name": "box", "memory": 16.0, "layers": None}]
    title, header, first, second = lines(catalogue_table("Presets", entries))
    assert title.strip() == "Presets"
    assert header.split() == ["name", "layers", "memory"]
    assert first.split() == ["mixtral", "32", "–"]
    assert second.split() == ["box", "–", "16.0"]
