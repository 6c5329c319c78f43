"""What tasks lose to channels: by hand, and by the laws that it follows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.graph import RecordingIssuer
from schedules.task import Work
from sim.causes import causes, times_of
from sim.compiled import simulate_graph
from sim.cost import Roofline
from sim.events import events_of
from sim.hardware_model import Hardware
from sim.lost import kernels, lost, resource_of
from sim.resources import alike
from sim.sensitivity import DIFFERENCES, sensitivities
from sim.sharing import Sharing, speeds
from tests.sim.test_sharing import amounts
from tests.strategies import issue, programs, toy_hardware


def two_tasks():
    """`read` of 160 bytes and `copy` of 60; then `use` on the stream of the copy, after both."""
    issuer = RecordingIssuer(["host", "cpu", "h2d"], {"cpu": 30})
    a, b = (issuer.buffer(name, "cpu", 10) for name in "ab")
    issuer.task("read", "cpu", writes=[a])
    issuer.task("copy", "h2d", writes=[b])
    issuer.task("use", "h2d", reads=[a, b])
    issuer.barrier()
    return issuer.take()


ALONE = np.array([2.0, 1.0, 1.0])
SHARED = Sharing(("cpu",), np.array([100.0]), np.array([[80.0], [60.0], [0.0]]))


def without_host(graph, duration_s, sharing):
    return lost(graph, duration_s, np.zeros(len(graph)), 0.0, sharing)


# -- by hand ---------------------------------------------------------------------------------------


def test_two_tasks_of_which_one_is_slowed_to_its_end():
    """Each gets 50 of the 100; the copy ends at 1.2, when `read` has 100 bytes left, at 80: 2.45.

    In its first 1.2 s `read` does 60 of its 160 bytes, for which it needs 0.75 s alone.
    """
    found = without_host(two_tasks(), ALONE, SHARED)
    assert found.end_s == pytest.approx([2.45, 1.2, 3.45])
    assert found.seconds == pytest.approx(np.array([[0.45], [0.2], [0]]))
    assert found.bound_s == pytest.approx(np.array([[1.2], [1.2], [0]]))
    assert found.own == pytest.approx([100 / 160, 0, 1])


def test_their_causes_critical_path_and_slack():
    """`use` waits for `read`, which was slowed; the copy could end 1.25 s later."""
    graph = two_tasks()
    slow = without_host(graph, ALONE, SHARED)
    times = times_of(events_of(graph), ALONE, np.zeros(3), 0.0, slow.end_s)
    rows = causes(times)
    assert rows["start_s"].tolist() == pytest.approx([0, 0, 2.45])
    assert rows["end_s"].tolist() == slow.end_s.tolist()
    assert (rows["cause"][2], rows["by"][2]) == ("dependency", 0)
    assert rows["critical"].tolist() == [True, False, True]
    assert rows["slack_s"].tolist() == pytest.approx([0, 1.25, 0])
    path = times.critical_path()
    assert times.length_s[path].sum() == pytest.approx(3.45)


def test_the_channel_that_fills_up_first_is_named():
    """Channel 1 is full at a quarter of the first two, then channel 0 at three quarters."""
    issuer = RecordingIssuer(["host", "a", "b", "c"], {"cpu": 30})
    for stream in "abc":
        issuer.task("task", stream)
    issuer.barrier()
    demand = np.array([[100.0, 0.0], [100.0, 100.0], [0.0, 100.0]])
    sharing = Sharing(("first", "second"), np.array([100.0, 50.0]), demand)
    found = without_host(issuer.take(), np.array([3.0, 1.0, 1.0]), sharing)
    assert found.end_s == pytest.approx([4.0, 4.0, 4.0])
    assert found.seconds == pytest.approx(np.array([[1, 0], [0, 3], [0, 3]]))
    assert found.own == pytest.approx([0, 0, 0])


def test_where_nothing_is_shared_nothing_is_lost():
    graph = two_tasks()
    room = Sharing(("cpu",), np.array([140.0]), SHARED.demand)
    assert without_host(graph, ALONE, None) is None
    assert without_host(graph, ALONE, room) is None


def test_resources_of_channels():
    assert [resource_of(name) for name in ("cpu", "gpu", "gpu1", "host_link")] == [
        *("channels.cpu", "channels.gpu", "channels.gpu", "channels.host_link")
    ]


def elasticities(works, channel, carries, due):
    """Of tasks on streams of their own, one channel of the toy machine: by resource, times T."""
    issuer = RecordingIssuer(["host", *works], {})
    for stream, work in works.items():
        issuer.task("task", stream, work=work)
    issuer.barrier()
    graph = issuer.take()
    machine = toy_hardware().model_dump()
    machine["channels"] = {channel: {"value": carries, "source": "made up for tests"}}
    cost = Roofline(Hardware.model_validate(machine))
    total = sum(due.values())
    phases = alike(graph, graph, (0, 0), cost)
    times = phases.steps.duration_s(0), phases.steps.issue_s, cost.sync_s
    assert lost(graph, *times, phases.steps.sharing(0)).bound_s.sum() == pytest.approx(
        due[f"channels.{channel}"]
    )
    return {
        one.resource: one.elasticity * total
        for one in sensitivities([phases], due, total, DIFFERENCES)
    }


def test_elasticities_by_hand():
    """`read`: 350 bytes at 40, 8.75 s alone; `copy`: 60 at 10; the channel has 45 of the 50.

    The copy needs less than half, so it gets its 10 and ends after 6 s; `read` gets 35 meanwhile,
    and its last 140 bytes at 40: 9.5 s, and a wait of 1/32 s. So with rates r, c, and C of the
    channel, T = 60/c + (350 - 60/c (C - c)) / r: a faster copy takes more of the channel away.
    """
    copy = Work(device="link", bytes={"cpu": 60.0}, link_bytes={"h2d": 60.0})
    works = {"cpu": Work(device="cpu", bytes={"cpu": 350.0}), "h2d": copy}
    due = {"channels.cpu": 6.0, "cpu.memory_bandwidth": 3.5, "host.sync_s": 0.03125}
    found = elasticities(works, "cpu", 45.0, due)
    assert found == pytest.approx(due | {"channels.cpu": 6.75, "links.h2d": -0.75}, rel=1e-6)
    assert next(iter(found)) == "channels.cpu"
    assert sum(found.values()) == pytest.approx(sum(due.values()))


def test_cores_are_a_number_and_no_rate():
    """Three of 4 threads read for 2 s, one pins for 1 s; only 3.5 run at full speed.

    The reading has 2.5 of its 3 threads until the pinning ends: T = p + a - p (C - 1) / 3 = 13/6 s.
    All rates times f take T / f, with as many threads; what threads gain comes on top.
    """
    read = Work(device="cpu", bytes={"cpu": 60.0}, share=0.75)
    works = {"cpu": read, "pin": Work(device="link", link_bytes={"pin": 8.0})}
    due = {"channels.cores": 1.0, "cpu.memory_bandwidth": 7 / 6, "host.sync_s": 0.03125}
    found = elasticities(works, "cores", 3.5, due)
    expected = {"channels.cores": 7 / 6, "cpu.memory_bandwidth": 2.0, "links.pin": 1 / 6}
    assert found == pytest.approx(expected | {"host.sync_s": 0.03125}, rel=1e-6)
    assert sum(found.values()) - 7 / 6 == pytest.approx(sum(due.values()))


# -- laws ------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 3), st.data())
def test_speeds_are_those_of_the_definition_and_what_binds_is_full(tasks, channels, data):
    rows = st.lists(amounts, min_size=channels, max_size=channels).filter(any)
    demand = np.array(data.draw(st.lists(rows, min_size=tasks, max_size=tasks)))
    limits = st.lists(st.floats(0.1, 100), min_size=channels, max_size=channels)
    capacity = np.array(data.draw(limits))
    speed, share, left = np.zeros(tasks), np.zeros(tasks), np.zeros(channels)
    binds = np.zeros(tasks, dtype=np.int64)
    dominant = (demand / capacity).max(axis=1)
    kernels().bound_speeds(
        np.arange(tasks), tasks, demand, dominant, capacity, speed, binds, share, left
    )
    assert speed.tolist() == pytest.approx(speeds(demand, capacity))
    used = speed @ demand
    for task, channel in enumerate(binds.tolist()):
        if channel < 0:
            assert speed[task] == 1
        else:
            assert demand[task, channel] > 0
            assert used[channel] == pytest.approx(capacity[channel])


@st.composite
def shared_programs(draw):
    """A random program whose tasks demand something of two channels, often more than they have."""
    issued = issue(draw(programs()))
    n = len(issued.graph)
    rates = st.sampled_from([0.0, 1.0, 2.0, 5.0])
    demand = np.array(draw(st.lists(rates, min_size=2, max_size=12)))
    capacity = np.array([draw(st.sampled_from([1.0, 3.0, 7.0])) for _ in range(2)])
    return issued, Sharing(("one", "two"), capacity, np.resize(demand, (n, 2)))


@settings(max_examples=200)
@given(shared_programs())
def test_what_is_lost_is_what_tasks_take_longer(case):
    issued, sharing = case
    given_s = issued.duration_s, issued.issue_s, issued.sync_s
    run = simulate_graph(issued.graph, *given_s, sharing)
    found = lost(issued.graph, *given_s, sharing)
    longer = run.end_s - run.start_s - issued.duration_s
    if found is None:
        assert longer == pytest.approx(0, abs=1e-9)
        return
    assert found.seconds.sum(axis=1) == pytest.approx(longer, abs=1e-9)
    assert (found.bound_s >= found.seconds).all()
    whole = issued.duration_s * found.own + found.bound_s.sum(axis=1)
    assert whole == pytest.approx(run.end_s - run.start_s, abs=1e-9)


@settings(max_examples=200)
@given(shared_programs(), st.data())
def test_times_are_the_engines_and_the_path_covers_the_makespan(case, data):
    issued, sharing = case
    given_s = issued.duration_s, issued.issue_s, issued.sync_s
    run = simulate_graph(issued.graph, *given_s, sharing)
    events = events_of(issued.graph)
    times = times_of(events, *given_s, run.end_s)
    rows = causes(times)
    assert rows["start_s"].tolist() == run.start_s.tolist()
    assert rows["end_s"].tolist() == run.end_s.tolist()
    assert times.makespan_s == run.makespan_s
    path = times.critical_path()
    assert times.length_s[path].sum() == pytest.approx(run.makespan_s, abs=1e-9)
    assert (times.slack_s()[path] == 0).all()
    if len(issued.graph):  # slack: how much longer, if the others take as long as they did
        task = data.draw(st.integers(0, len(issued.graph) - 1))
        stretched = run.end_s - run.start_s
        stretched[task] += rows["slack_s"][task] + 1
        late = times_of(events, stretched, issued.issue_s, issued.sync_s).makespan_s
        assert late == pytest.approx(run.makespan_s + 1, abs=1e-9)
