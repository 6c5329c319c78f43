"""Lanes that are timed."""

import sys
import threading
from itertools import pairwise

import pytest
import torch

from runtime.calibration.lanes import Lanes
from runtime.device import HostDevice
from tests.runtime.runs import OPTIONS

DEVICE = HostDevice(OPTIONS)


def nothing():
    return 0


def test_tasks_of_a_lane_follow_one_another():
    with Lanes(DEVICE, {"gpu": 1}) as lanes:
        spans = lanes.run({"gpu": [nothing] * 5})["gpu"]
    assert len(spans) == 5
    assert all(a.end_s <= b.start_s for a, b in pairwise(spans))
    assert all(span.seconds >= 0 for span in spans)


def test_lanes_run_at_the_same_time():
    both = threading.Barrier(2, timeout=60)

    def meet():
        both.wait()
        return 0

    with Lanes(DEVICE, {"h2d": 1, "d2h": 1}) as lanes:
        spans = lanes.run({"h2d": [meet], "d2h": [meet]})
    (h2d,), (d2h,) = spans["h2d"], spans["d2h"]
    assert max(h2d.start_s, d2h.start_s) < min(h2d.end_s, d2h.end_s)


def test_lanes_have_their_threads_and_nothing_is_left_changed():
    before, found = (torch.get_num_threads(), sys.getswitchinterval()), []

    def note():
        found.append(torch.get_num_threads())
        return 0

    with Lanes(DEVICE, {"cpu": 2, "pin": 1}) as lanes:
        lanes.run({"cpu": [note]})
        lanes.run({"pin": [note]})
    assert found == [2, 1]
    assert (torch.get_num_threads(), sys.getswitchinterval()) == before


def test_a_task_that_fails_ends_the_run():
    def fail():
        raise ValueError("no such block")

    with pytest.raises(ValueError, match="no such block"), Lanes(DEVICE, {"cpu": 1}) as lanes:
        lanes.run({"cpu": [nothing, fail, nothing]})
