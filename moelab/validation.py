"""What `moelab validate` prints: figures that could be simulated, the summary, and the others."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from reports.tables import validation_table


def validation_parts(found: Mapping[str, Any]) -> list[RenderableType]:
    """The table of what was simulated, with the summary below, and why the rest was not."""
    simulated = [row for row in found["rows"] if row["simulated"] is not None]
    summary = found["summary"]
    groups = {"all": summary} | summary["by_source"]
    table = validation_table(simulated, {name: _numbers(group) for name, group in groups.items()})
    return [table, *missing([row for row in found["rows"] if row["simulated"] is None])]


def missing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on the figures that could not be simulated, by reason.

    >>> missing([{"id": "a", "reason": "no GPU"}, {"id": "b", "reason": "no GPU"}])[-1]
    '2 x no GPU (a, b)'
    """
    if not rows:
        return []
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(row["id"])
    lines = [f"{len(ids)} x {reason} ({_some(ids)})" for reason, ids in by_reason.items()]
    return [f"Not simulated, and counted as 100 % wrong: {len(rows)}", *lines]


def _some(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]}, {'... ' if len(ids) > 2 else ''}{ids[-1]}"


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in group.items() if isinstance(value, int | float)}
