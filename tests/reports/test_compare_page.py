"""A comparison on one page."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.compare_page import MOST_REPEATS, write_comparison
from schedules.errors import BadInput
from schedules.timeline import Timeline

Make = Callable[..., Timeline]


def slots(page: str) -> dict[str, Any]:
    pattern = r'<script type="application/json" data-figure="(\w+)">(.*)</script>'
    return {name: json.loads(text) for name, text in re.findall(pattern, page)}


def layers(make: Make, layer_s: float, start_s: float) -> Timeline:
    """Four layers of `layer_s` each, in one decode step."""
    times = [start_s + i * layer_s for i in range(4)]
    return make([("ffn", "gpu", i, 0, 1, t, t + layer_s, 1e9) for i, t in enumerate(times)])


def test_page_has_all_parts(
    results: list[dict[str, Any]], pipeline: Timeline, tmp_path: Path
) -> None:
    write_comparison(results, {"fast": pipeline, "slow": pipeline}, tmp_path / "c.html", "T & C")
    page = (tmp_path / "c.html").read_text()
    assert "<h1>T &amp; C</h1>" in page
    assert "fast is fastest: 50.0 tokens/s, 2.5× slow." in page
    assert "It keeps its busiest stream, h2d" in page
    assert "Does not fit: pool" in page
    assert "version=0.1.0" in page
    assert list(slots(page)) == ["throughput", "busy", "timelines"]
    assert page.count("plotly.js v") == 1


def test_timelines_start_at_the_same_relative_moment(
    results: list[dict[str, Any]], make: Make, tmp_path: Path
) -> None:
    timelines = {"fast": layers(make, 1.0, 10.0), "slow": layers(make, 2.0, 50.0)}
    write_comparison(results, timelines, tmp_path / "c.html")
    data = slots((tmp_path / "c.html").read_text())["timelines"]
    assert [panel["origin"] for panel in data["panels"]] == [11.0, 52.0]  # layer 1 of 4
    assert data["figure"]["layout"]["xaxis"]["range"] == [0.0, 4.0]  # two layers of the slower
    titles = [a["text"] for a in data["figure"]["layout"]["annotations"]]
    assert titles == ["<b>fast</b>  50.0 tokens/s", "<b>slow</b>  20.0 tokens/s"]


def test_the_view_does_not_repeat_the_quickest_too_often(
    results: list[dict[str, Any]], make: Make, tmp_path: Path
) -> None:
    timelines = {"fast": layers(make, 1.0, 0.0), "slow": layers(make, 100.0, 0.0)}
    write_comparison(results, timelines, tmp_path / "c.html")
    layout = slots((tmp_path / "c.html").read_text())["timelines"]["figure"]["layout"]
    assert layout["xaxis"]["range"] == [0.0, MOST_REPEATS * 2.0]
    run = layout["updatemenus"][0]["buttons"][2]["args"][0]["xaxis.range"]
    assert run == [-100.0, 300.0]


def test_an_op_has_one_colour_in_all_panels(
    results: list[dict[str, Any]], make: Make, pipeline: Timeline, tmp_path: Path
) -> None:
    timelines = {"fast": make([("load", "gpu", 0, 0, 1, 0.0, 1.0)]), "slow": pipeline}
    write_comparison(results, timelines, tmp_path / "c.html")
    traces = slots((tmp_path / "c.html").read_text())["timelines"]["figure"]["data"]
    colours = {trace["marker"]["color"] for trace in traces if trace["name"] == "load"}
    assert len(colours) == 1


def test_without_timelines_there_are_tables_and_charts(
    results: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_comparison(results, {}, tmp_path / "c.html")
    assert list(slots((tmp_path / "c.html").read_text())) == ["throughput", "busy"]


def test_when_nothing_fits_the_table_says_why(
    misfit: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write_comparison([misfit("a"), misfit("b")], {}, tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "None of the 2 schedules fits." in page
    assert page.count("Does not fit: pool") == 2
    assert slots(page) == {}


def test_names_are_escaped(
    results: list[dict[str, Any]], pipeline: Timeline, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>"
    results[1]["schedule"] = evil
    results[2]["reason"] = evil
    write_comparison(results, {evil: pipeline}, tmp_path / "c.html", evil)
    assert "<script>alert" not in (tmp_path / "c.html").read_text()


def test_bad_input_is_named_and_leaves_nothing(
    results: list[dict[str, Any]],
    pipeline: Timeline,
    tmp_path: Path,
    files_in: Callable[[], list[str]],
) -> None:
    with pytest.raises(BadInput, match="at least one result"):
        write_comparison([], {}, tmp_path / "c.html")
    with pytest.raises(BadInput, match="no result of 'fest', did you mean 'fast'"):
        write_comparison(results, {"fest": pipeline}, tmp_path / "c.html")
    with pytest.raises(BadInput, match="does not exist"):
        write_comparison(results, {}, tmp_path / "missing" / "c.html")
    assert files_in() == []
