"""Write docs/validation.md: published figures beside what the simulator says.

Run `python benchmarks/validation_table.py`; it takes about a minute.
"""

from pathlib import Path
from typing import Any

from sim.published import read_published
from sim.validate import validate

PAGE = Path(__file__).parents[1] / "docs" / "validation.md"
MARK = "<!-- written by benchmarks/validation_table.py from here on -->"


def main() -> None:
    """Replace what follows the mark in the page."""
    found = validate(read_published())
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(head + MARK + "\n\n" + summary(found["summary"]) + rows(found["rows"]))


def summary(figures: dict[str, Any]) -> str:
    """One line per source and metric."""
    lines = ["| source | metric | rows | median error | 90th percentile |", "|---|---|--:|--:|--:|"]
    for source, group in figures["by_source"].items():
        for metric, m in group["by_metric"].items():
            cells = (source, metric, m["n"], f"{m['median_abs_error']:.1%}")
            lines.append("| " + " | ".join(map(str, (*cells, f"{m['p90_abs_error']:.1%}"))) + " |")
    median, p90 = figures["median_abs_error"], figures["p90_abs_error"]
    whole = (
        f"\nOver all {figures['n']} rows: median {median:.1%}, 90th percentile {p90:.1%}; "
        f"{figures['pairwise_order']:.1%} of the pairs within a cell are in the right order.\n\n"
    )
    return "\n".join(lines) + "\n" + whole


def rows(checked: list[dict[str, Any]]) -> str:
    """One line per published figure."""
    lines = ["| id | published | simulated | error |", "|---|--:|--:|--:|"]
    for row in checked:
        simulated = "" if row["simulated"] is None else f"{row['simulated']:.4g}"
        error = row["reason"] if row["error"] is None else f"{row['error']:+.1%}"
        lines.append(f"| {row['id']} | {row['published']:.4g} | {simulated} | {error} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
