"""Measured lanes above simulated ones."""

import pytest

from reports.compare_run_lanes import beside, lanes, middle_step
from reports.windows import MANY_TASKS
from schedules.timeline import Timeline
from tests.reports.compared_runs import timelines


def test_each_stream_has_two_lanes() -> None:
    both = beside(*timelines())
    assert both.streams == ("h2d measured", "h2d simulated", "gpu measured", "gpu simulated")
    assert len(both) == 24
    rows = both.frame[both.frame["stream"] == "gpu simulated"]
    assert (rows["end_s"] - rows["start_s"]).tolist() == pytest.approx([2.0] * 6)


def test_a_stream_that_works_on_one_clock_alone_has_both_lanes() -> None:
    measured, simulated = timelines()
    frame = simulated.frame
    idle = frame.assign(end_s=frame["end_s"].where(frame["stream"] != "gpu", frame["start_s"]))
    both = beside(measured, Timeline(idle, simulated.streams))
    assert "gpu simulated" in both.streams


def test_zero_is_where_the_middle_step_begins() -> None:
    """Of one decode step, that is it: measured 11.5 to 23 s."""
    both = beside(*timelines())
    assert middle_step(both) == (11.5, 23.0)
    figure, panel = lanes(*timelines())
    assert panel.origin_s == 11.5
    assert list(figure.layout.xaxis.range) == [0.0, 11.5]
    buttons = {
        b.label: list(b.args[0]["xaxis.range"]) for b in figure.layout.updatemenus[0].buttons
    }
    assert buttons == {
        "One step": [0.0, 11.5],
        "Prefill": [-11.5, 0.0],
        "Whole run": [-11.5, 11.5],
    }


def test_names_stand_once_and_every_other_pair_on_a_band() -> None:
    figure, _ = lanes(*timelines())
    words = figure.layout.yaxis.ticktext
    assert [("<b>h2d</b>" in w, "<b>gpu</b>" in w) for w in words] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]
    (band,) = figure.layout.shapes
    assert (band.y0, band.y1) == (1.5, 3.5)


def test_prefill_alone() -> None:
    measured, simulated = (
        Timeline(t.frame[t.frame["step"] == 0].reset_index(drop=True), t.streams)
        for t in timelines()
    )
    assert middle_step(beside(measured, simulated)) == (0.0, 11.5)
    assert lanes(measured, simulated)[1].origin_s == 0.0


def test_a_step_of_many_tasks_opens_on_two_layers(long_pipeline: Timeline) -> None:
    frame = long_pipeline.frame.assign(step=long_pipeline.frame["step"].clip(upper=1))
    one = Timeline(frame, long_pipeline.streams)
    assert len(one.frame[one.frame["step"] == 1]) > MANY_TASKS
    figure, _ = lanes(one, one)
    assert figure.layout.updatemenus[0].buttons[0].label == "Two layers"
