"""A page of one timeline."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reports.timeline_page import write_timeline
from schedules.errors import BadInput
from schedules.timeline import Timeline


def test_page_names_the_run_and_its_size(pipeline: Timeline, tmp_path: Path) -> None:
    write_timeline(pipeline, tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "181 tasks in 7.00 s, 5 decode steps." in page
    assert "From afar, bar heights are the shares of time of each op." in page


def test_page_says_what_it_does_not_hold(long_pipeline: Timeline, tmp_path: Path) -> None:
    write_timeline(long_pipeline, tmp_path / "t.html", limit=300)
    page = (tmp_path / "t.html").read_text()
    assert "of 3,361 tasks around the opening view, which are held one by one" in page


def test_names_are_escaped(make: Callable[..., Timeline], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    write_timeline(make([(evil, "gpu", 0, 0, 1, 0.0, 1.0)], name=evil), tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_same_input_gives_the_same_page(pipeline: Timeline, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_timeline(pipeline, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_failures_leave_nothing(
    pipeline: Timeline,
    make: Callable[..., Timeline],
    tmp_path: Path,
    files_in: Callable[[], list[str]],
) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        write_timeline(pipeline, tmp_path / "missing" / "t.html")
    with pytest.raises(BadInput, match="nothing to draw"):
        write_timeline(make([]), tmp_path / "t.html")
    assert files_in() == []
