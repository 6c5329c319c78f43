"""Outlines of the critical path."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reports.critical import NOTE, outline, runs
from reports.timeline_page import write_timeline
from schedules.timeline import Timeline

Make = Callable[..., Timeline]
ROWS = [
    ("load", "h2d", 0, 0, 1, 0.0, 1.0),
    ("load", "h2d", 1, 0, 1, 1.0, 2.0),
    ("load", "h2d", 2, 0, 1, 3.0, 4.0),
    ("compute", "gpu", 0, 0, 1, 1.0, 3.0),
    ("nothing", "gpu", 0, 0, 1, 3.5, 3.5),
]


def test_tasks_in_a_row_are_one_run(make: Make) -> None:
    timeline = make(ROWS)
    assert runs(timeline, "h2d") == [(0.0, 2.0), (3.0, 4.0)]
    assert runs(timeline, "gpu") == [(1.0, 3.0)]
    assert runs(timeline, "cpu") == []


def test_an_outline_is_a_rectangle_in_its_lane(make: Make) -> None:
    timeline = make(ROWS)
    critical = Timeline(timeline.frame.iloc[[3]], timeline.streams)
    trace = outline(critical, timeline)
    lane = [s for s in timeline.streams if s in ("h2d", "gpu")].index("gpu")
    assert trace.x[:5].tolist() == [1, 3, 3, 1, 1]
    assert trace.y[:5] - lane == pytest.approx([-0.4, -0.4, 0.4, 0.4, -0.4])
    assert np.isnan(trace.x[5:]).all()
    assert len(trace.x) == 6


def test_a_page_with_a_critical_path_says_so(make: Make, tmp_path: Path) -> None:
    timeline = make(ROWS)
    write_timeline(timeline, tmp_path / "plain.html")
    write_timeline(timeline, tmp_path / "t.html", critical=timeline)
    assert NOTE not in (tmp_path / "plain.html").read_text()
    page = (tmp_path / "t.html").read_text()
    assert NOTE in page
    assert '"name":"critical path"' in page
