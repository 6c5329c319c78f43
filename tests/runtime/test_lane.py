"""Lanes: order of issue, dependencies, and an error that ends them all."""

import threading
import time
from itertools import pairwise

import pytest

from runtime.device import HostDevice
from runtime.lane import Failure, Job, Lane, Stop
from tests.runtime.runs import OPTIONS


class Lanes:
    """Some lanes, and the order in which their tasks ran."""

    def __init__(self, *names):
        self.failure = Failure()
        self.order = []
        self.times = {}
        device = HostDevice(OPTIONS)
        self.lanes = [
            Lane(name, device, self.failure, self.keep, describe=lambda n: f"task {n}")
            for name in names
        ]

    def keep(self, number, start_ns, end_ns):
        self.times[number] = (start_ns, end_ns)

    def put(self, lane, number, after=(), action=None):
        def run():
            if action is not None:
                action()
            self.order.append(number)
            return 0

        return self.lanes[lane].put(Job(number, run, after))

    def close(self):
        for lane in self.lanes:
            lane.close()


def test_a_lane_runs_its_tasks_in_order_of_issue():
    own = Lanes("gpu")
    for number in range(100):
        own.put(0, number)
    own.close()
    assert own.order == list(range(100))
    times = [own.times[i] for i in range(100)]
    assert all(a[1] <= b[0] for a, b in pairwise(times))


def test_a_task_waits_for_those_of_other_lanes():
    own = Lanes("h2d", "gpu")
    gate = threading.Event()
    place = own.put(0, 1, action=gate.wait)
    own.put(1, 2, after=[(own.lanes[0], place)])
    time.sleep(0.02)
    assert own.order == []
    gate.set()
    own.lanes[1].join(1)
    assert own.order == [1, 2]
    own.close()


def test_the_first_error_stops_everyone():
    own = Lanes("h2d", "gpu", "cpu")

    def fail():
        raise ValueError("no such row")

    place = own.put(0, 1, action=fail)
    own.put(1, 2, after=[(own.lanes[0], place)])
    own.put(2, 3, after=[(own.lanes[1], 1)])
    with pytest.raises(Stop):
        own.lanes[2].join(2)  # a task that never comes
    own.close()
    assert own.order == []
    assert str(own.failure.error) == "no such row"
    assert own.failure.what == "task 1"


def test_closing_after_a_stop_skips_what_waits():
    own = Lanes("gpu")
    begun, gate = threading.Event(), threading.Event()

    def wait():
        begun.set()
        gate.wait()

    own.put(0, 1, action=wait)
    own.put(0, 2)
    begun.wait()
    own.failure.stop()
    gate.set()
    own.close()
    assert own.order == [1]
    assert own.failure.error is None
