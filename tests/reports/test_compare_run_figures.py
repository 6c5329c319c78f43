"""The charts of a compared run."""

import numpy as np
import pytest

from reports.compare_run_figures import (
    POINTS,
    axis_of,
    gap_figure,
    scatter_figure,
    steps_between,
)
from tests.reports.compared_runs import compared, timelines


def test_the_steps_lead_from_simulated_to_measured() -> None:
    steps = steps_between(compared())
    assert [name for name, _ in steps] == [
        "compute on gpu, prefill",
        "compute on gpu, decode",
        "waiting between tasks",
        "before the first task, after the last",
    ]
    assert 16.0 + sum(value for _, value in steps) == pytest.approx(25.0)


def test_small_operations_are_shown_together() -> None:
    found = compared()
    found["operations"][1] |= {"worth_s": 0.001, "share": 0.001}
    found["gap_s"]["makespan"]["operations"] += 0.001
    assert ("other operations", pytest.approx(0.001)) in steps_between(found)


def test_the_waterfall() -> None:
    (trace,) = gap_figure(compared()).data
    assert (trace.y[0], trace.y[-1]) == ("simulated", "measured")
    assert list(trace.x) == [16.0, 3.0, 3.0, 1.0, 2.0, 25.0]
    assert trace.text[1] == "+3.00 s"


def test_the_axis_shows_all_steps() -> None:
    """From 16 to 25 s, and a fourth of that on either side."""
    assert axis_of(compared()) == [13.75, 27.25]


def test_an_axis_without_steps() -> None:
    found = compared(operations=[])
    found["gap_s"]["makespan"] = dict.fromkeys(found["gap_s"]["makespan"], 0.0)
    assert axis_of(found) == pytest.approx([14.4, 17.6])


def test_a_point_for_each_task_and_the_line_of_equals() -> None:
    measured, simulated = (timeline.frame for timeline in timelines())
    found = scatter_figure(measured, simulated, {"load": "#111111", "compute": "#222222"})
    names = [trace.name for trace in found.data]
    assert names == ["compute on gpu", "load on h2d", "equal"]
    assert list(found.data[0].x) == pytest.approx([2.0] * 6)
    assert list(found.data[0].y) == pytest.approx([3.0] * 6)
    assert list(found.data[2].x) == pytest.approx([2.0, 3.0])


def test_of_many_tasks_some_are_chosen_the_extremes_among_them() -> None:
    measured, _ = (timeline.frame for timeline in timelines())
    many = measured.loc[np.repeat(0, 1000)].reset_index(drop=True)
    many["end_s"] = many["start_s"] + np.arange(1, 1001)
    trace = scatter_figure(many, many, {"load": "#111111"}).data[0]
    assert len(trace.x) == POINTS
    assert (trace.x[0], trace.x[-1]) == (1.0, 1000.0)


def test_tasks_that_take_no_time_have_no_place_on_it() -> None:
    measured, simulated = (timeline.frame for timeline in timelines())
    instant = simulated.assign(end_s=simulated["start_s"])
    assert len(scatter_figure(measured, instant, {}).data) == 0
