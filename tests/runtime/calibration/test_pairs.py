"""Two streams at once."""

from runtime.calibration.effort import EFFORTS
from runtime.calibration.lanes import Span
from runtime.calibration.pairs import PAIRS, points, together
from tests.runtime.runs import OPTIONS


def test_a_pace_is_the_time_of_both_over_what_was_done_in_it():
    a = [Span(0, 1), Span(1, 2), Span(2, 4), Span(4, 8)]
    b = [Span(0.5, 1.5), Span(1.5, 4.5), Span(4.5, 6)]
    assert together({"a": a, "b": b}) == {"a": 5.5 / (0.5 + 1 + 1 + 0.5), "b": 5.5 / 3}


def test_waiting_between_tasks_counts():
    assert together({"a": [Span(0, 1), Span(3, 4)]}) == {"a": 2}


def test_tasks_that_never_met_count_as_they_are():
    spans = {"a": [Span(0, 1), Span(1, 4)], "b": [Span(4, 8)]}
    assert together(spans) == {"a": 2, "b": 4}


def test_each_pair_has_both_roles_alone_and_together():
    keys = [params for (_, params), _ in points(OPTIONS, EFFORTS["quick"])]
    assert len(keys) == 4 * len(PAIRS)
    for pair in PAIRS:
        own = {(k["role"], k["when"]) for k in keys if k["pair"] == "+".join(pair)}
        assert own == {(role, when) for role in pair for when in ("alone", "together")}


def test_the_four_points_of_a_pair_are_measured_in_turns():
    measured = [measure() for _, measure in list(points(OPTIONS, EFFORTS["quick"]))[:4]]
    assert {len(point.seconds) for point in measured} == {EFFORTS["quick"].repeats}
    assert all(min(point.seconds) > 0 for point in measured)
