"""Sentences and tables about crossings, from made-up numbers."""

import io

import pytest
from rich.console import Console

from reports.crossover_table import crossover_table, headline, quantity, range_lines, shown, who
from tests.reports.crossovers import made


def printed(found):
    out = io.StringIO()
    Console(file=out, width=120).print(crossover_table(found))
    return [line.split() for line in out.getvalue().splitlines()]


@pytest.fixture
def once():
    """Equal at none, `b` from 4 on; 3 is a halving that is not shown."""
    speeds = {1: (2.0, 1.0), 2: (3.0, 2.5), 3: (3.5, 3.4), 4: (4.0, 5.0), 8: (6.0, 9.0)}
    return made(speeds, grid=(1, 2, 8))


def test_one_crossing(once):
    said = "The winner changes once over batch: from a to b between 3 and 4."
    assert headline(once) == said
    assert range_lines(once) == ["1 to 3: a is faster.", "4 to 8: b is faster."]


def test_the_table(once):
    once["points"].insert(2, {**once["points"][1], "value": 2.5, "on_grid": False})
    assert printed(once) == [
        ["batch", "a", "tok/s", "b", "tok/s", "ratio", "winner"],
        ["1", "2.00", "1.00", "2.000", "a"],
        ["2", "3.00", "2.50", "1.200", "a"],
        ["3", "3.50", "3.40", "1.029", "a"],
        ["4", "4.00", "5.00", "0.800", "b"],
        ["8", "6.00", "9.00", "0.667", "b"],
    ]


def test_halvings_are_left_out(once):
    once["points"].insert(2, {**once["points"][1], "value": 2.5, "on_grid": False})
    assert [p["value"] for p in shown(once)] == [1, 2, 3, 4, 8]


def test_no_crossing():
    always = made({1: (2.0, 1.0), 2: (3.0, 2.5)})
    assert headline(always) == "No crossing: a wins over the whole range of batch."
    equal = made({1: (2.0, 2.0), 2: (3.0, 3.0)})
    assert headline(equal) == "No crossing: the two are equal over the whole range of batch."
    assert range_lines(equal) == ["1 to 2: both are equally fast."]
    neither = made({1: (None, None), 2: (None, None)})
    assert headline(neither) == "No crossing: neither runs over the whole range of batch."


def test_several_crossings_and_a_default():
    speeds = {1: (2.0, 1.0), 2: (2.0, 3.0), 4: (5.0, 4.0), 8: (None, 4.0), 16: (None, None)}
    found = made(speeds)
    assert headline(found) == (
        "The winner changes 4 times over batch: from a to b between 1 and 2; from b to a between "
        "2 and 4; from a to b between 4 and 8; from b to neither runs between 8 and 16."
    )
    lines = range_lines(found)
    assert lines[3] == "8: b wins by default; a does not run: too large."
    assert lines[4] == "16: neither runs; a does not run: too large; b does not run: too large."
    assert printed(found)[-2:] == [
        ["8", "–", "4.00", "–", "b", "(alone)"],
        ["16", "–", "–", "–", "neither", "runs"],
    ]


def test_a_default_that_is_no_crossing():
    """The winner stays, because the other stops fitting."""
    found = made({1: (2.0, 1.0), 2: (2.0, None)})
    assert found["crossings"] == []
    assert headline(found) == "No crossing: a wins over the whole range of batch."
    assert range_lines(found)[1] == "2: a wins by default; b does not run: too large."


def test_a_machine_has_a_value_of_its_own():
    found = made({1e9: (2.0, 1.0), 2e9: (2.0, 3.0)}) | {
        "over": "pcie",
        "unit": "bytes/s",
        "own_value": 12.35e9,
    }
    assert headline(found).endswith("over PCIe: from a to b between 1.000 GB/s and 2.000 GB/s.")
    assert range_lines(found)[-1] == "box has 12.35 GB/s."


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("bytes", 15.5e9, "15.50 GB"),
        ("bytes", 676.8e9, "676.8 GB"),
        ("bytes", 5e6, "0.005000 GB"),
        ("bytes/s", 3.4970e9, "3.497 GB/s"),
        ("sequences", 1, "1"),
        ("tokens", 4096, "4,096"),
    ],
)
def test_quantities(unit, value, text):
    assert quantity({"unit": unit}, value) == text


def test_who():
    assert who({"winner": None, "verdict": "none"}) == "neither runs"
