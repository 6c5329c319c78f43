"""What is said of an unsteady machine and of poor fits."""

import numpy as np
import pytest

from schedules.sample import Sample
from schedules.task import NOTHING
from sim.calibration.least_squares import Cost, Fit
from sim.calibration.steadiness import scatter, shares_got, turns, warnings
from tests.sim.calibration.lab import point

SEEN, UNSEEN = Cost(1.0, 0.5, 1.5), Cost(0.1, 0.0, 0.3)


def probes(*seconds, probe="copy"):
    return [point("steady", s, {"bytes": 1.0}, probe=probe, turn=i) for i, s in enumerate(seconds)]


def shares(*got):
    return [
        point("steady", 2.0, {"cpu_s": 2 * g}, probe="share", turn=i) for i, g in enumerate(got)
    ]


def fitted(errors, **costs):
    return Fit(costs, dict.fromkeys(costs, 1.0), np.array(errors))


def test_all_is_well():
    points = [*probes(1.0, 1.09), *probes(2.0, 2.0, probe="gemm"), *shares(1.0, 0.96)]
    fits = {"gpu": fitted([0.1, -0.1, 0.5], bytes=SEEN)}
    assert warnings(points, [], fits) == []


def test_a_probe_that_drifts():
    (said,) = warnings(probes(0.004, 0.005, 0.004), [], {})
    assert said == (
        "The machine was unsteady: the same copy took 4 to 5 ms at different moments (25 % apart)."
    )


def test_a_probe_is_compared_with_itself_alone():
    assert warnings([*probes(1.0), *probes(2.0, probe="gemm")], [], {}) == []


def test_turns_come_in_their_order():
    assert list(turns(probes(1.0, 3.0, 2.0)[::-1], "copy")) == [1, 3, 2]


def test_what_else_ran():
    assert list(shares_got(shares(1.0, 0.8, 0.5))) == pytest.approx([1.0, 0.8, 0.5])
    (said,) = warnings(shares(1.0, 0.8, 0.5), [], {})
    assert said == (
        "Something else ran: in 2 of 3 probes it took more than 5 % of the processors, "
        "at most 50 %."
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 2 / 3),
        ([1.0] * 9, 0.0),
        ([1.0, 9.0, 9.0], 0.0),
        ([0.0] * 5, 0.0),
    ],
)
def test_scatter_by_hand(seconds, expected):
    """Of three repetitions there are no quartiles; the quartiles of five are the inner ones."""
    assert scatter(seconds) == pytest.approx(expected)


def test_scatter_is_said_once_for_all_of_a_kind():
    wide, wider = (1.0, 2.0, 3.0, 4.0, 5.0), (1.0, 2.0, 3.0, 7.0, 9.0)
    points = [
        point("copy", seconds, link=link, size_bytes=4096)
        for link, seconds in (("h2d", wide), ("d2h", wider), ("peer", 1.0))
    ]
    operations = [
        Sample("cgopipe", op, "gpu", "decode", NOTHING, seconds)
        for op, seconds in (("attention", wide), ("experts", (1.0,)))
    ]
    first, second = warnings(points, operations, {})
    assert first == (
        "2 of 3 measurements scatter: the middle half of their repetitions spans more than 25 % of "
        "the median, at most 167 % (copy d2h 4096)."
    )
    assert second.startswith("1 of 1 operations scatter: ")  # one repetition has no scatter
    assert second.endswith("at most 67 % (attention of cgopipe).")


def test_poor_fits():
    (said,) = warnings([], [], {"gpu": fitted([0.2, -0.3, 0.1], calls=SEEN)})
    assert said == (
        "The fit of the gpu is poor: half of its 3 measurements are missed by more than 20 %."
    )


def test_costs_that_are_not_told_from_nothing():
    fits = {"gpu": fitted([0.0], bytes=SEEN), "cpu": fitted([0.0], bytes=UNSEEN, calls=UNSEEN)}
    (said,) = warnings([], [], fits)
    assert said.startswith("Of what was measured of the cpu, too little time is due to bytes, call")
