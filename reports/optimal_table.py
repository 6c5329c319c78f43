"""How far a schedule is from the best order of its tasks, as a table and sentences."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units

FINE = 5e-5
"""A share below this is shown as none."""


def optimal_table(found: Mapping[str, Any]) -> Table:
    """The schedule's order, the best one found, and the bound: seconds, and how far above it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("order", no_wrap=True)
    for title in (found["form"], "over the bound"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = (
        (found["schedule"], found["schedule_s"]),
        ("best found", found["best_s"]),
        ("bound", found["bound_s"]),
    )
    for name, seconds in rows:
        over = units.DASH if name == "bound" else gap(seconds / found["bound_s"] - 1)
        table.add_row(Text(name), _seconds(seconds), over)
    return table


def gap(share: float) -> str:
    """A share as per cent, to a hundredth.

    >>> gap(0.2053), gap(1e-9), gap(0.00172)
    ('20.53 %', '0 %', '0.17 %')
    """
    return "0 %" if abs(share) < FINE else f"{100 * share:.2f} %"


def headline(found: Mapping[str, Any]) -> str:
    """One sentence: the gap, and whether it is proved."""
    name = found["schedule"]
    if found["gap"] < FINE and found["status"] == "optimal":
        return f"Optimal: no order of the same tasks is shorter than that of {name}."
    if found["gap"] < FINE:
        return f"No better order was found; {name} is at most {_above_bound(found)} from the best."
    better = f"{name} takes {gap(found['gap'])} longer than the best order"
    if found["status"] == "optimal":
        return f"Optimal: {better}, which is proved to be the best."
    return (
        f"{better.replace('order', 'order found')}; {_above_bound(found)} is what is left to prove."
    )


def _above_bound(found: Mapping[str, Any]) -> str:
    return gap(found["bound_gap"])


def what(found: Mapping[str, Any]) -> str:
    """What was ordered."""
    layers = f"{found['layers']} layer{'s' if found['layers'] > 1 else ''}"
    form = f"a period of {layers}" if found["form"] == "period" else f"a step of {layers}"
    count = found["micro_batches"]
    return (
        f"{found['tasks']:,} tasks: {form}, {count} micro-batch{'es' if count > 1 else ''} of "
        f"{found['policy']['mu']}, decode step {found['step']}."
    )


def binds(found: Mapping[str, Any]) -> str:
    """Which simple bound is the tightest, and whether the solver has raised it."""
    name, seconds = max(found["bounds_s"].items(), key=lambda item: item[1])
    reason = {
        "data": "the longest chain of data",
        "places": "how long memory is taken",
    }.get(name, f"the work of stream {name}")
    raised = found["bound_s"] > seconds * (1 + FINE)
    more = f", raised to {_seconds(found['bound_s'])} by the solver" if raised else ""
    return f"Bound: {reason}, {_seconds(seconds)}{more}."


def changes_lines(found: Mapping[str, Any]) -> list[str]:
    """Where the better order first departs, a line for each stream."""
    lines: dict[str, list[str]] = {}
    for change in found["changes"]:
        words = f"{change['best']} for {change['schedule']} at place {change['place'] + 1}"
        lines.setdefault(change["stream"], []).append(words)
    return [f"The better order on {stream}: {'; '.join(all_)}." for stream, all_ in lines.items()]


def _seconds(value: float) -> str:
    """A time with five digits, so that gaps below a per cent can be seen.

    >>> _seconds(0.331695)
    '331.69 ms'
    """
    return f"{value:.4f} s" if value >= 1 else f"{1e3 * value:.2f} ms"
