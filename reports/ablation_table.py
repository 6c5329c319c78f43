"""What each part of the physics is worth, as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units

KINDS = ("throughput", "latency", "memory")


def ablation_table(studied: Sequence[Mapping[str, Any]]) -> Table:
    """One row per ablation, the simulator as it is first.

    Median absolute error by kind, the share of pairs in the right order; how many rows move by more
    than 1 %, and the median error of those with the part and without it.

    Parameters
    ----------
    studied: as of `sim.ablation_study.study`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("ablation", no_wrap=True)
    there = [kind for kind in KINDS if any(kind in one["by_kind"] for one in studied)]
    for name in (*there, "order", "rows", "with", "without"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what is different", overflow="fold")
    for one in studied:
        table.add_row(*(Text(cell) for cell in cells(one, there)), Text(one["title"]))
    return table


def cells(one: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """The name of an ablation and its numbers."""
    medians = [one["by_kind"].get(kind, {}).get("median_abs_error") for kind in kinds]
    shares = [*medians, one["pairwise_order"]]
    changes = [one["whole_error"], one["ablated_error"]]
    return [
        one["name"],
        *(_share(value) for value in shares),
        str(one["n_changed"]),
        *(_share(value) for value in changes),
    ]


def _share(value: float | None) -> str:
    return units.DASH if value is None else f"{100 * value:.1f} %"
