"""The tables of an explanation."""

from rich.console import Console
from rich.table import Table

from reports.explain_table import bound_table, idle_table, path_table, resource_table, tables
from tests.reports.explanations import bound_row, explanation, lost_row, path_row, resource_row


def printed(table: Table) -> list[list[str]]:
    """The lines below the title and the header, cell by cell."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines()[2:]]


def test_resources_that_matter():
    assert printed(resource_table(explanation())) == [
        ["links.h2d", "80.0", "s", "80", "%", "+7.0", "%", "-8.0", "%"],
        ["gpu.compute.float16.experts", "20.0", "s", "20", "%", "+0.1", "%", "-2.0", "%"],
    ]


def test_the_path_and_what_is_not_on_it():
    found = explanation(critical_path=[path_row("load", "h2d", 80.0), path_row("issue", "host", 1)])
    assert printed(path_table(found)) == [
        ["load", "h2d", "80.0", "s", "80", "%", "10", "1,200", "0", "s"],
        ["issue", "host", "1.00", "s", "1.0", "%", "10", "–", "–"],
        ["compute", "gpu", "–", "–", "–", "1,200", "500", "ms"],
    ]


def test_idle_streams_that_run_tasks():
    rows = printed(idle_table(explanation()))
    assert [row[0] for row in rows] == ["h2d", "h2d", "gpu"]
    assert rows[0] == ["h2d", "12.0", "s", "12", "%", "waiting", "for", "compute", "on", "gpu"]


def test_bounds_of_every_kind():
    many = [bound_row("stream", f"s{i}", 90.0 - i) for i in range(8)]
    found = explanation(bounds=[*many, bound_row("chain", "dependencies", 20.0)])
    rows = printed(bound_table(found))
    assert [row[1] for row in rows] == [*(f"s{i}" for i in range(6)), "dependencies"]
    assert rows[-1] == ["chain", "dependencies", "20.0", "s", "5.0×"]


def test_all_tables():
    titles = ["What the time is due to", "Critical path", "Idle time", "Lower bounds"]
    assert [table.title for table in tables(explanation())] == titles


def test_what_is_lost_to_sharing():
    found = explanation(sharing=[lost_row("cpu", "load", "h2d", 10.0)], method="differences")
    named = {table.title: table for table in tables(found)}
    assert printed(named["Lost to sharing"]) == [
        ["cpu", "load", "h2d", "10.0", "s", "10", "%", "15.0", "s", "1,200"]
    ]
    assert len(named) == 5
    columns = named["What the time is due to (by differences)"].columns
    assert [str(column.header) for column in columns][:3] == ["resource", "critical", "elasticity"]


def test_a_resource_that_does_harm_when_it_is_faster_is_shown():
    harm = resource_row("links.h2d", 0.0, -0.01, 0.012)
    found = explanation(sensitivities=[{**harm, "elasticity": -0.1}], method="differences")
    assert printed(resource_table(found)) == [
        ["links.h2d", "0", "s", "-10", "%", "-1.0", "%", "+1.2", "%"]
    ]
