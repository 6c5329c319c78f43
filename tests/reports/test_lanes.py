"""The traces of a timeline."""

from collections.abc import Callable

import numpy as np
import pytest

from reports.bars import BAR, series_of
from reports.lanes import (
    HOVER,
    LABEL,
    hover_columns,
    labels,
    make_panel,
    outside,
    share_hover,
    task_hover,
    traces,
)
from reports.palette import op_colours
from reports.windows import whole
from schedules.timeline import Timeline

Make = Callable[..., Timeline]


def test_two_traces_per_series_and_every_task_in_a_bar(pipeline: Timeline) -> None:
    panel = make_panel(pipeline, (4.0, 5.0), limit=1000)
    found = traces(panel, "y2", op_colours([pipeline]), 1.0)
    assert len(found) == 2 * len(panel.series) == 8
    assert {trace.yaxis for trace in found} == {"y2"}
    assert sum(len(trace.x) for trace in found[::2]) == len(pipeline.frame)
    assert sum(len(trace.x) for trace in found[1::2]) == 0


def test_bars_stand_where_the_tasks_ran(make: Make) -> None:
    timeline = make([("a", "gpu", 0, 0, 1, 3.0, 5.0), ("b", "h2d", 0, 0, 1, 1.0, 2.0)])
    panel = make_panel(timeline, (1.0, 5.0), 10, origin_s=1.0)
    b, _, a, _ = traces(panel, "y", op_colours([timeline]), 4.0)
    assert (a.base[0], a.x[0], a.y[0]) == (2.0, 2.0, 1)
    assert (b.base[0], b.x[0], b.y[0]) == (0.0, 1.0, 0)
    assert a.marker.color == op_colours([timeline])["a"]


def test_shares_and_single_tasks_together_hold_all_busy_time(long_pipeline: Timeline) -> None:
    panel = make_panel(long_pipeline, (20.0, 20.5), limit=500)
    start_s, end_s = panel.detail
    assert (start_s, end_s) != whole(long_pipeline)
    far = outside(panel)
    for series, bars in zip(panel.series, far, strict=True):
        tasks = series.tasks
        inside = np.minimum(tasks["end_s"], end_s) - np.maximum(tasks["start_s"], start_s)
        shown = (bars["height"] / BAR * bars["length"]).sum() + inside.clip(lower=0).sum()
        assert shown == pytest.approx((tasks["end_s"] - tasks["start_s"]).sum(), rel=1e-3)


def test_no_shares_when_all_tasks_are_drawn(pipeline: Timeline) -> None:
    panel = make_panel(pipeline, (4.0, 5.0), limit=1000)
    assert [len(bars) for bars in outside(panel)] == [0, 0, 0, 0]


def test_hover_columns_hold_achieved_rates(make: Make) -> None:
    tasks = make([("a", "gpu", 3, 5, 2, 1.0, 3.0, 8e12, 4e9, 1e9)]).frame
    row = dict(zip(HOVER, hover_columns(tasks)[0].tolist(), strict=True))
    assert row == {
        "start_s": 1.0,
        "layer": 3.0,
        "micro_batch": 5.0,
        "step": 2.0,
        "length_s": 2.0,
        "bytes": 4e9,
        "bytes_per_s": 2e9,
        "link_bytes": 1e9,
        "link_bytes_per_s": 0.5e9,
        "flops": 8e12,
        "flops_per_s": 4e12,
    }


def test_hover_names_only_what_the_op_has(make: Make) -> None:
    timeline = make([("load", "h2d", 3, -1, 2, 0.0, 1.0, 0.0, 0.0, 1e9)])
    text = task_hover(series_of(timeline)[0])
    assert text.startswith("<b>load</b> on h2d<br>layer %{customdata[1]} · step %{customdata[3]}")
    assert "link %{customdata[7]:.3s}B at %{customdata[8]:.3s}B/s" in text
    assert "micro-batch" not in text
    assert "memory" not in text
    assert "compute" not in text


def test_hover_text_cannot_be_broken_by_names(make: Make) -> None:
    (series,) = series_of(make([("<i>%{x}", "gpu", 0, 0, 1, 0.0, 1.0)]))
    for text in (task_hover(series), share_hover(series)):
        assert "&lt;i&gt;%&#123;x}" in text
        assert "<i>" not in text


def test_labels_need_room(make: Make) -> None:
    wide, narrow = 3 * LABEL, 1.5 * LABEL  # of a view of 1 s
    rows = [
        ("a", "gpu", 7, 13, 1, 0.0, wide),
        ("a", "gpu", 7, 13, 1, 1.0, 1.0 + narrow),
        ("a", "gpu", 7, -1, 1, 2.0, 2.0 + wide),
        ("a", "gpu", -1, -1, 1, 3.0, 3.0 + wide),
        ("a", "gpu", 7, 1000, 1, 4.0, 4.0 + wide),
    ]
    assert labels(make(rows).frame, 1.0) == ["13", "", "L7", "", ""]
