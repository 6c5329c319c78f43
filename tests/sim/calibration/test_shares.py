"""What threads reach together."""

import pytest

from sim.calibration import shares
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
