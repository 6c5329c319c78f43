"""Idle time by cause, by hand and on random graphs."""

import numpy as np
import pytest
from hypothesis import given

from schedules.graph import RecordingIssuer
from sim.causes import causes
from sim.idle import CAUSES, add_idle, named, nothing_idle
from sim.times import Run, busy_s
from tests.sim.explained import times_of_issued
from tests.sim.test_causes import explained, two_slots
from tests.strategies import issue, programs


def idle_of(times):
    found = nothing_idle(times.events.graph)
    add_idle(times, found)
    return named(times.events.graph, found)


def test_loads_and_computations():
    """h2d runs 0-2, 2-4, 5-7, gpu 2-5, 5-8, 8-11; the thread waits for the end."""
    times, _ = explained(two_slots(), [2.0, 3.0])
    assert idle_of(times) == {
        ("host", "dependency", "compute", "gpu"): 11,
        ("h2d", "dependency", "compute", "gpu"): 1,
        ("h2d", "end", None, None): 4,
        ("gpu", "first", "load", "h2d"): 2,
    }


def test_a_slow_thread():
    """Issued at 4, 8, 12, 16: gpu runs 8-11 and 16-19, h2d 4-6 and 12-14, all ends at 20."""
    times, _ = explained(two_slots(2), [2.0, 3.0], issue_s=4.0, sync_s=1.0)
    assert idle_of(times) == {
        ("host", "dependency", "compute", "gpu"): 3,
        ("h2d", "first", None, None): 4,
        ("h2d", "issuing", None, None): 6,
        ("h2d", "end", None, None): 6,
        ("gpu", "first", None, None): 8,
        ("gpu", "issuing", None, None): 5,
        ("gpu", "end", None, None): 1,
    }


def test_a_thread_that_stops_and_then_issues():
    """From 2.25 on nothing is loaded: the thread stops until 5.25, then needs 0.75 s."""
    issuer = RecordingIssuer(["host", "h2d", "gpu"], {"gpu": 20})
    slot = issuer.buffer("slot", "gpu", 10)
    issuer.task("load", "h2d", writes=[slot])
    issuer.wait(issuer.task("compute", "gpu", reads=[slot]))
    issuer.task("load", "h2d", writes=[issuer.buffer("other", "gpu", 10)])
    issuer.barrier()
    times, _ = explained(issuer.take(), [2.0, 3.0, 2.0], issue_s=0.25, sync_s=0.5)
    found = idle_of(times)
    assert found["h2d", "thread", "compute", "gpu"] == 3
    assert found["h2d", "issuing", None, None] == 0.75
    assert found["gpu", "end", None, None] == 3.25


@given(programs())
def test_idle_is_makespan_minus_busy_on_every_stream(program):
    issued = issue(program)
    times = times_of_issued(issued)
    kinds, seconds = times.events.kind, times.length_s
    issuing = np.bincount(
        times.events.lane[kinds > 0], seconds[kinds > 0], minlength=len(issued.graph.streams)
    )
    run = Run(times.begin_s, times.end_s, times.makespan_s, issuing[: issued.graph.hosts])
    busy = busy_s(issued.graph, issued.duration_s, run)
    found = idle_of(times)
    for stream, work in zip(issued.graph.streams, busy, strict=True):
        own = [seconds for key, seconds in found.items() if key[0] == stream]
        assert sum(own) == pytest.approx(times.makespan_s - work, abs=1e-9)
        if not stream.startswith("host"):
            own = [s for key, s in found.items() if key[0] == stream and key[1] != "end"]
            tasks = issued.graph.stream == issued.graph.streams.index(stream)
            assert sum(own) == pytest.approx(causes(times)["idle_s"][tasks].sum(), abs=1e-9)
    assert {cause for _, cause, _, _ in found} <= set(CAUSES)
