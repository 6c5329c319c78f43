"""What threads reach together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.calibration import shares
from sim.calibration.least_squares import Cost, Fit
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


def device(memory_share, overlaps=False):
    """Costs by which `products` need so much of their time for memory, of 1 s in all."""
    costs = {"float32.gemm": 1 - memory_share, "bytes": memory_share}
    found = {name: Cost(value, value, value) for name, value in costs.items()}
    return Fit(found, dict.fromkeys(costs, 1.0), np.zeros(1), overlaps)


def beside(gemm, stream, other="pin"):
    """A pair of streams: products and `other`, and their speeds beside each other."""
    for role, speed in (("gemm", gemm), (other, stream)):
        for when, seconds in (("alone", 1.0), ("together", 1 / speed)):
            params = {"pair": f"gemm+{other}", "role": role, "when": when}
            yield point("copy_pair", seconds, {"bytes": 1.0, "flops": 1.0}, **params)


@pytest.mark.parametrize(
    ("places", "memory_share", "speeds"),
    [
        (2.0, 1.0, (0.5, 1.0)),  # 1 of 2 places for the stream, the other for half of the speed
        (2.0, 0.5, (1 / 1.5, 1.0)),
        (2.25, 0.5, (1.25 / 1.5, 1.0)),
        (1.8, 0.5, (0.9 / 1.5, 0.9)),  # both get 0.9 places
    ],
)
def test_speeds_by_hand(places, memory_share, speeds):
    assert shares.beside(places, memory_share) == pytest.approx(speeds)
    found = shares.queue([*beside(*speeds)], device(memory_share))
    assert found == pytest.approx(places, abs=1e-4)


def test_with_three_places_nobody_waits():
    assert shares.beside(shares.NOBODY_WAITS, 1.0).tolist() == [1.0, 1.0]
    found = shares.queue([*beside(1.0, 1.1)], device(1.0))  # faster beside it: noise
    assert found == pytest.approx(shares.NOBODY_WAITS, abs=1e-3)


@given(gemm=st.floats(0.3, 1.0), read=st.floats(0.5, 1.0), share=st.floats(0.1, 1.0))
def test_several_pairs_count_alike(gemm, read, share):
    pairs = [*beside(gemm, 1.0), *beside(gemm, read, "read")]
    assert 1 <= shares.queue(pairs, device(share)) <= shares.NOBODY_WAITS
    assert shares.queue(pairs[::-1], device(share)) == shares.queue(pairs, device(share))


def test_without_pairs_nothing_is_known():
    assert shares.queue([], device(0.5)) is None
    assert shares.queue(list(beside(0.5, 1.0))[:3], device(0.5)) is None


def test_a_device_that_overlaps():
    """Memory takes 0.8 of the 0.8 s that it is longer than the arithmetic."""
    found = shares.queue([*beside(0.5, 1.0)], device(0.8, overlaps=True))
    assert found == pytest.approx(2.0, abs=1e-4)
