"""Series, and the shares of time that stand for many tasks."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.bars import BAR, busy_until, series_of, shares, used_streams
from schedules.timeline import Timeline

Make = Callable[..., Timeline]

ROWS = [
    ("a", "gpu", 0, 0, 1, 0.0, 1.0),
    ("b", "gpu", 0, 0, 1, 1.0, 3.0),
    ("a", "gpu", 0, 1, 1, 3.5, 4.0),
    ("load", "h2d", 0, 0, 1, 1.0, 2.0),
    ("wait", "cpu", 0, 0, 1, 2.0, 2.0),
]


def test_streams_that_took_no_time_have_no_lane(make: Make) -> None:
    assert used_streams(make(ROWS)) == ["h2d", "gpu"]


def test_series_go_from_the_top_lane_down(make: Make) -> None:
    found = [(s.lane, s.stream, s.op, len(s.tasks)) for s in series_of(make(ROWS))]
    assert found == [(0, "h2d", "load", 1), (1, "gpu", "a", 2), (1, "gpu", "b", 1)]


def test_series_are_sorted_by_start(make: Make) -> None:
    a = series_of(make(ROWS[::-1]))[1]
    assert a.tasks["start_s"].tolist() == [0.0, 3.5]


def test_shares_by_hand(make: Make) -> None:
    load, a, b = shares(series_of(make(ROWS)), np.array([0.0, 2.0, 4.0]))
    assert a["height"].tolist() == pytest.approx([BAR * 0.5, BAR * 0.25])
    assert b["height"].tolist() == pytest.approx([BAR * 0.5, BAR * 0.5])
    assert load["height"].tolist() == pytest.approx([BAR * 0.5])  # nothing in the second half
    assert a["count"].tolist() == [1, 1]
    assert b["count"].tolist() == [1, 0]  # began in the first half only


def test_shares_of_a_lane_stand_upon_each_other_from_the_bottom(make: Make) -> None:
    _, a, b = shares(series_of(make(ROWS)), np.array([0.0, 2.0]))
    bottom = BAR / 2  # the axis runs downwards
    assert a["offset"][0] + a["height"][0] == pytest.approx(bottom)
    assert b["offset"][0] + b["height"][0] == pytest.approx(a["offset"][0])
    assert b["offset"][0] == pytest.approx(-bottom)  # the lane is full


def test_overlapping_measurements_do_not_leave_the_lane(make: Make) -> None:
    rows = [("a", "gpu", 0, 0, 1, 0.0, 2.0), ("b", "gpu", 0, 0, 1, 1.0, 2.0)]
    a, b = shares(series_of(make(rows)), np.array([0.0, 2.0]))
    assert a["height"].tolist() == pytest.approx([BAR])
    assert b["height"].tolist() == pytest.approx([0.0])


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 5)), min_size=1, max_size=20))
def test_shares_conserve_busy_time(gaps_and_lengths: list[tuple[float, float]]) -> None:
    gaps, lengths = (np.array(column) for column in zip(*gaps_and_lengths, strict=True))
    ends = np.cumsum(gaps + lengths)
    tasks = pd.DataFrame({"start_s": ends - lengths, "end_s": ends})
    moments = np.linspace(0.0, ends[-1], 33)
    busy = np.diff(busy_until(tasks, moments))
    assert busy.sum() == pytest.approx(lengths.sum())
    assert (busy >= -1e-9).all()
    assert (busy <= moments[1] + 1e-9).all()
