"""The page of a crossover."""

import math

import pytest

from reports.crossover_page import curves, write_crossover
from schedules.errors import BadInput
from tests.reports.crossovers import made

SPEEDS = {1: (2.0, 1.0), 2: (3.0, 2.5), 4: (4.0, 5.0), 8: (None, 9.0)}


def test_both_curves_over_all_points():
    first, second = curves(made(SPEEDS)).data
    assert (first.name, list(first.x), list(first.y)) == ("a", [1, 2, 4, 8], [2.0, 3.0, 4.0, None])
    assert (second.name, list(second.y)) == ("b", [1.0, 2.5, 5.0, 9.0])
    assert list(first.text) == ["1", "2", "4", "8"]


def test_a_crossing_is_marked_between_its_ends():
    layout = curves(made(SPEEDS)).layout
    (line,), (label,) = layout.shapes, layout.annotations
    assert line.x0 == pytest.approx(math.sqrt(8))
    assert label.x == pytest.approx(math.log10(8) / 2)  # a log axis counts in powers of ten
    assert label.text == "2 – 4"


def test_bytes_are_drawn_as_gb():
    found = made({1e9: (2.0, 1.0), 2e9: (2.0, 3.0)}) | {"over": "pcie", "unit": "bytes/s"}
    figure = curves(found)
    assert list(figure.data[0].x) == [1, 2]
    assert figure.layout.xaxis.title.text == "PCIe, GB/s"


def test_the_page(tmp_path):
    found = made(SPEEDS) | {"workload": "<b>w"}
    write_crossover(found, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a or b: m on box, &lt;b&gt;w" in text
    assert "from a to b between 2 and 4." in text
    assert "<li>8: b wins by default; a does not run: too large.</li>" in text
    assert '<td>8</td><td>–</td><td>9.00</td><td class="text">b (alone)</td>' in text


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        write_crossover(made(SPEEDS), tmp_path / "none" / "page.html")
