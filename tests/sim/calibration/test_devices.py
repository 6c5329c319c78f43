"""Costs of a device from operations on it."""

import numpy as np
import pytest

from schedules.errors import BadInput
from schedules.sample import Sample
from schedules.task import Work
from sim.calibration.devices import columns, device_fit, medians
from tests.sim.calibration.lab import COSTS, Priced, samples


@pytest.mark.parametrize("device", ["gpu", "cpu"])
@pytest.mark.parametrize("overlaps", [False, True])
def test_known_costs_are_found_and_whether_they_overlap(device, overlaps):
    fit = device_fit(samples(Priced(overlaps), n=80), device)
    assert fit.overlaps is overlaps
    found = {name: cost.value for name, cost in fit.costs.items()}
    assert found == pytest.approx(COSTS[device], rel=0.02)


def test_a_share_of_a_device_costs_as_much_more():
    """Half of the cores: seconds of arithmetic and memory are twice as many, those of calls not."""
    whole = [s for s in samples(n=60) if s.work.device == "cpu"]
    halves = []
    for s in whole:
        one = s.work.calls * COSTS["cpu"]["calls"]
        twice = tuple(2 * (seconds - one) + one for seconds in s.seconds)
        work = s.work.model_copy(update={"share": 0.5})
        halves.append(s._replace(work=work, seconds=twice))
    found = {name: cost.value for name, cost in device_fit([*whole, *halves], "cpu").costs.items()}
    assert found == pytest.approx(COSTS["cpu"], rel=0.02)


def sample(work, *seconds):
    return Sample("here", "operation", "gpu", "decode", work, seconds)


def test_columns_by_hand():
    works = [
        Work(device="gpu", dtype="float16", flops={"gemm": 8.0}, bytes={"gpu": 4.0}, calls=2),
        Work(device="gpu", dtype="float32", flops={"gemm": 6.0}, bytes={"cpu": 9.0}, share=0.5),
    ]
    found = columns([sample(work, 1.0) for work in works], "gpu")
    assert {name: list(each) for name, each in found.items()} == {
        "float16.gemm": [8, 0],
        "float32.gemm": [0, 12],
        "bytes": [4, 0],
        "calls": [2, 0],
    }


def test_medians():
    work = Work(device="gpu", dtype="float32", flops={"gemm": 12.0}, bytes={"gpu": 6.0}, calls=1)
    own = [sample(work, 1.0, 2.0, 9.0), sample(work, 3.0, 3.0)]
    assert list(medians(own)) == [2, 3]


def test_the_best_that_was_reached():
    work = Work(device="cpu", dtype="float32", flops={"gemm": 12.0}, bytes={"cpu": 6.0}, calls=1)
    own = [Sample("here", "operation", "cpu", "decode", work, (s,)) for s in (2.0, 3.0, 4.0)]
    assert device_fit(own, "cpu").best == {"float32.gemm": 6, "bytes": 3, "calls": 0.5}


def test_the_other_device_says_nothing_of_one():
    alone = [s for s in samples() if s.work.device == "gpu"]
    one, other = device_fit(alone, "gpu"), device_fit(samples(), "gpu")
    np.testing.assert_array_equal(one.errors, other.errors)


def test_a_device_that_did_nothing_is_refused():
    with pytest.raises(BadInput, match="no operation was measured on the cpu"):
        device_fit([s for s in samples() if s.work.device == "gpu"], "cpu")
