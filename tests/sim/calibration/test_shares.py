"""What threads reach together."""

import numpy as np
import pytest

from sim.calibration import shares
from sim.channels import OPERATION_PLACES
from sim.sharing import speeds
from tests.sim.calibration.lab import point


def cores(seconds_by_threads):
    """Each thread does 12 flops."""
    return [
        point("cores", seconds, {"flops": 12.0 * n}, threads=n)
        for n, seconds in seconds_by_threads.items()
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 1.0}, 2.0),
        ({1: 1.0, 2: 1.25, 4: 2.0}, 2.0),  # four on two cores
        ({1: 1.0, 2: 1.6}, 1.25),  # they share a core's units
        ({1: 1.0, 2: 4.0}, 1.0),  # never less than one alone
    ],
)
def test_threads_worth_of_arithmetic(seconds, expected):
    assert shares.cores(cores(seconds)) == expected


def test_without_a_single_thread_nothing_is_known():
    assert shares.cores(cores({2: 1.0})) is None
    assert shares.cores([]) is None


def test_memory_carries_what_any_threads_moved():
    points = [
        point("memory", seconds, {"bytes": 8.0}, memory=where, what="read", threads=1)
        for where, seconds in (("cpu", 2.0), ("cpu", 1.0), ("gpu", 0.1))
    ]
    assert shares.memory(points) == 8
    assert shares.memory(points[2:]) is None
    assert shares.memory(points, [3.0, 9.0]) == 9  # what ran alone is not slowed down
    assert shares.memory([], [9.0]) is None


def beside(gemm, stream, other="pin"):
    """A pair of streams: products and `other`, and their speeds beside each other."""
    for role, speed in (("gemm", gemm), (other, stream)):
        for when, seconds in (("alone", 1.0), ("together", 1 / speed)):
            params = {"pair": f"gemm+{other}", "role": role, "when": when}
            yield point("copy_pair", seconds, {"bytes": 1.0, "flops": 1.0}, **params)


@pytest.mark.parametrize(
    ("speed", "places"),
    [
        (0.5, 2.0),  # 1 of 2 for the stream; the other is half of what the products would take
        (0.6, 2.2),
        (1.0, 3.0),
        (1.2, 3.0),  # faster beside it: noise
        (0.3, 2.0),  # with fewer, nobody would get two
    ],
)
def test_places_by_hand(speed, places):
    found = shares.queue(list(beside(speed, 1.0)))
    assert found == pytest.approx(places)
    demand = np.array([[OPERATION_PLACES], [1.0]])
    together = [min(max(speed, 0.5), 1.0), 1.0]
    assert speeds(demand, np.array([found])) == pytest.approx(together)


def test_several_pairs_count_alike():
    found = shares.queue([*beside(0.5, 1.0), *beside(0.7, 0.9, "read")])
    assert found == pytest.approx(2.2)


def test_without_pairs_nothing_is_known():
    assert shares.queue([]) is None
    assert shares.queue(list(beside(0.5, 1.0))[1:]) is None
