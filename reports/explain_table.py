"""The tables of `moelab explain`: resources, sharing, critical path, idle time, bounds."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from reports.explain_story import Explanation, because
from reports.units import DASH, percent, ratio, seconds

SHOWN = 0.001
"""Shares of the makespan below this are left to the JSON."""

MOST_BOUNDS = 6


def tables(found: Explanation) -> list[Table]:
    """All tables, in the order in which they are read."""
    first = [resource_table(found), *([sharing_table(found)] if found["sharing"] else [])]
    return [*first, path_table(found), idle_table(found), bound_table(found)]


def resource_table(found: Explanation) -> Table:
    """What the time is due to, and how the throughput follows each resource."""
    exact = found["method"] != "differences"
    table = _table("What the time is due to" + ("" if exact else " (by differences)"))
    table.add_column("resource")
    for name in ("critical", "share" if exact else "elasticity", "10 % faster", "10 % slower"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found["sensitivities"]:
        if abs(row["elasticity"]) >= SHOWN:
            numbers = (seconds(row["critical_s"]), percent(row["elasticity"]))
            changes = (signed(row["faster"]), signed(row["slower"]))
            table.add_row(Text(row["resource"]), *numbers, *changes)
    return table


def sharing_table(found: Explanation) -> Table:
    """What tasks lose to the channels that they share."""
    table = _table("Lost to sharing")
    for name in ("channel", "op", "stream"):
        table.add_column(name)
    for name in ("critical", "share", "all tasks", "tasks"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found["sharing"]:
        names = [Text(row[name]) for name in ("channel", "op", "stream")]
        numbers = (seconds(row["critical_s"]), percent(row["share"]))
        table.add_row(*names, *numbers, seconds(row["lost_s"]), f"{row['tasks']:,}")
    return table


def path_table(found: Explanation) -> Table:
    """The critical path by op, and the slack of those that are not on it."""
    table = _table("Critical path")
    table.add_column("op")
    table.add_column("stream")
    for name in ("critical", "share", "tasks on it", "of", "mean slack"):
        table.add_column(name, justify="right", no_wrap=True)
    on_path = {(row["op"], row["stream"]): row for row in found["critical_path"]}
    slack = {(row["op"], row["stream"]): row for row in found["slack"]}
    for key in [*on_path, *(key for key in slack if key not in on_path)]:
        table.add_row(*map(Text, key), *_path_cells(on_path.get(key), slack.get(key)))
    return table


def idle_table(found: Explanation) -> Table:
    """Why each stream is idle; streams without tasks are left out."""
    table = _table("Idle time")
    table.add_column("stream")
    for name in ("idle", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    used = {row["stream"] for row in found["slack"]} | {
        row["stream"] for row in found["critical_path"]
    }
    for row in found["idle"]:
        if row["stream"] in used and row["share"] >= SHOWN:
            numbers = (seconds(row["idle_s"]), percent(row["share"]))
            table.add_row(Text(row["stream"]), *numbers, Text(because(row)))
    return table


def bound_table(found: Explanation) -> Table:
    """The tightest lower bounds, each kind at least once."""
    table = _table("Lower bounds")
    table.add_column("bound")
    table.add_column("of")
    for name in ("at least", "makespan is"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = found["bounds"]
    kinds = {row["kind"]: place for place, row in reversed(list(enumerate(rows)))}
    for place, row in enumerate(rows):
        if place < MOST_BOUNDS or place in kinds.values():
            numbers = (seconds(row["bound_s"]), ratio(row["ratio"]))
            table.add_row(Text(row["kind"]), Text(row["what"]), *numbers)
    return table


def signed(change: float) -> str:
    """A relative change with its sign.

    >>> signed(0.0612), signed(-0.0941), signed(0.0)
    ('+6.1 %', '-9.4 %', '+0.0 %')
    """
    return f"{100 * change:+.1f} %"


def _path_cells(path: Mapping[str, Any] | None, slack: Mapping[str, Any] | None) -> list[str]:
    return [
        seconds(path["critical_s"]) if path else DASH,
        percent(path["share"]) if path else DASH,
        f"{path['tasks']:,}" if path else DASH,
        f"{slack['tasks']:,}" if slack else DASH,
        seconds(slack["mean_s"]) if slack else DASH,
    ]


def _table(title: str) -> Table:
    return Table(
        title=title,
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        title_justify="left",
        title_style="bold",
    )
