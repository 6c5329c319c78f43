"""What `moelab validate` prints: figures that could be simulated, the summary, and the others.

With `--ablate`, what each part of the physics is worth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from reports.ablation_table import ablation_table
from reports.tables import validation_table
from sim.ablation import NAMES as SHOWN
from sim.ablation import find_ablation
from sim.ablation_study import study
from sim.published import PublishedRow

ALL = "all"

NAMES = {"latency": "latencies and operation times"}
"""Kinds of figures whose names need words."""


def validation_parts(found: Mapping[str, Any]) -> list[RenderableType]:
    """The table of what was simulated, with the summary below, and why the rest was not.

    Where there are several kinds of figures, each has a line of the summary.
    """
    simulated = [row for row in found["rows"] if row["simulated"] is not None]
    summary = found["summary"]
    kinds = {NAMES.get(kind, kind): group for kind, group in summary["by_kind"].items()}
    groups = {"all": summary} | (kinds if len(kinds) > 1 else {}) | summary["by_source"]
    table = validation_table(simulated, {name: _numbers(group) for name, group in groups.items()})
    return [table, *missing([row for row in found["rows"] if row["simulated"] is None])]


def ablated(rows: Sequence[PublishedRow], names: Sequence[str]) -> list[dict[str, Any]]:
    """The errors of the simulator as it is, and with each of these ablations (`all`: every one).

    Raises `BadInput` for an unknown name.
    """
    wanted = list(SHOWN) if ALL in names else list(dict.fromkeys(names))
    return study(rows, [find_ablation(name) for name in wanted])


def ablation_parts(found: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The table of the ablations, and what its columns are."""
    return [
        ablation_table(found),
        "Median absolute errors by kind of figure; order: pairs in the right order; rows: figures",
        "that change by more than 1 %, and their median error with the part and without it.",
    ]


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
