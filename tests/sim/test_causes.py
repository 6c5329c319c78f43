"""Causes of starts, critical path and slack, by hand and on random graphs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from sim.causes import by_op, causes, op_names, times_of
from sim.compiled import simulate_graph
from sim.events import ISSUE, SYNC, TASK, events_of
from tests.sim.explained import times_of_issued, times_of_program
from tests.strategies import issue, programs, whole_seconds

STREAMS = ["host", "h2d", "gpu"]


def two_slots(layers=3):
    """Loads into two slots, computations that read them."""
    issuer = RecordingIssuer(STREAMS, {"cpu": 100, "gpu": 20})
    home = issuer.buffer("home", "cpu", 90)
    slots = [issuer.buffer(f"slot[{i}]", "gpu", 10) for i in range(2)]
    for layer in range(layers):
        slot = slots[layer % 2]
        issuer.task("load", "h2d", reads=[home], writes=[slot], layer=layer)
        issuer.task("compute", "gpu", reads=[slot], layer=layer)
    issuer.barrier()
    return issuer.take()


def explained(graph, seconds, issue_s=0.0, sync_s=0.0):
    n = len(graph)
    times = times_of(events_of(graph), np.resize(seconds, n) * 1.0, np.full(n, issue_s), sync_s)
    return times, causes(times)


def on_path(times):
    """Events and seconds of the critical path, by op and stream."""
    names = op_names(times.events.graph)
    parts = zip(names, *by_op(times, times.critical_path()), strict=True)
    return {name: (count, seconds) for name, count, seconds in parts if count}


# -- by hand ---------------------------------------------------------------------------------------


def test_loads_and_computations():
    """Load 2 s, compute 3 s: 0-2, 2-5 / 2-4, 5-8 / 5-7 (the slot is free at 5), 8-11."""
    times, rows = explained(two_slots(), [2.0, 3.0])
    assert rows["start_s"].tolist() == [0, 2, 2, 5, 5, 8]
    assert rows["cause"].tolist() == [
        *("thread", "dependency", "stream", "stream", "dependency", "stream")
    ]
    assert rows["by"].tolist() == [-1, 0, 0, 1, 1, 3]
    assert rows["idle_s"].tolist() == [0, 2, 0, 0, 1, 0]
    assert rows["critical"].tolist() == [True, True, False, True, False, True]
    assert rows["slack_s"].tolist() == [0, 0, 1, 0, 1, 0]
    assert on_path(times) == {
        ("load", "h2d"): (1, 2),
        ("compute", "gpu"): (3, 9),
        ("(issuing)", "host"): (1, 0),
        ("(waits)", "host"): (1, 0),
    }


def test_a_slow_thread():
    """Issuing takes 4 s a task: each computation starts as soon as it is issued."""
    times, rows = explained(two_slots(2), [2.0, 3.0], issue_s=4.0, sync_s=1.0)
    assert rows["start_s"].tolist() == [4, 8, 12, 16]
    assert rows["cause"].tolist() == ["thread"] * 4
    assert rows["by"].tolist() == [-1] * 4
    assert times.makespan_s == 20  # 4 x 4 s, 3 s, 1 s
    assert on_path(times) == {
        ("compute", "gpu"): (1, 3),
        ("(issuing)", "host"): (4, 16),
        ("(waits)", "host"): (1, 1),
    }


def test_a_thread_that_waits():
    """It stops for the first computation, then issues the second load."""
    issuer = RecordingIssuer(STREAMS, {"gpu": 20})
    slot = issuer.buffer("slot", "gpu", 10)
    issuer.task("load", "h2d", writes=[slot])
    issuer.wait(issuer.task("compute", "gpu", reads=[slot]))
    issuer.task("load", "h2d", writes=[issuer.buffer("other", "gpu", 10)])
    issuer.barrier()
    _, rows = explained(issuer.take(), [2.0, 3.0, 2.0], issue_s=0.25, sync_s=0.5)
    assert rows["start_s"].tolist() == [0.25, 2.25, 6.0]
    assert rows["idle_s"].tolist() == [0.25, 2.25, 3.75]
    assert rows["cause"].tolist() == ["thread", "dependency", "thread"]
    assert rows["by"].tolist() == [-1, 0, 1]


def test_at_equal_times_the_stream_is_named_then_the_dependency_issued_first():
    issuer = RecordingIssuer(["host", "h2d", "d2h", "gpu"], {"gpu": 40})
    a, b = (issuer.buffer(name, "gpu", 10) for name in "ab")
    issuer.task("load", "h2d", writes=[a])
    issuer.task("store", "d2h", writes=[b])
    issuer.task("compute", "gpu", reads=[b, a])
    issuer.task("other", "gpu")
    issuer.task("more", "h2d", writes=[issuer.buffer("c", "gpu", 10)])
    issuer.task("last", "gpu", reads=[a])
    issuer.barrier()
    _, rows = explained(issuer.take(), [2.0, 2.0, 0.0, 1.0, 1.0, 1.0])
    assert rows["cause"].tolist()[2:] == ["dependency", "stream", "stream", "stream"]
    assert rows["by"].tolist()[2:] == [0, 2, 0, 3]


def test_graphs_that_no_issuer_records_are_refused():
    graph = two_slots()
    for other in (
        replace(graph, lanes=(1, 2, 1)),
        replace(graph, dependencies=np.full_like(graph.dependencies, 5)),
    ):
        with pytest.raises(BadInput, match="as an issuer records them"):
            events_of(other)


def test_each_thread_needs_a_stream():
    with pytest.raises(BadInput, match="1 issuing threads, but 0 streams named host"):
        events_of(replace(two_slots(), streams=("thread", "h2d", "gpu")))


# -- laws ------------------------------------------------------------------------------------------


@given(programs())
def test_times_are_those_of_the_engine_to_the_bit(program):
    issued = issue(program)
    run = simulate_graph(issued.graph, issued.duration_s, issued.issue_s, issued.sync_s)
    times = times_of_issued(issued)
    rows = causes(times)
    assert (rows["start_s"] == run.start_s).all()
    assert (rows["end_s"] == run.end_s).all()
    assert times.makespan_s == run.makespan_s


@given(programs())
def test_every_start_has_one_cause_that_explains_it_exactly(program):
    times = times_of_program(program)
    events = times.events
    for event, binding in enumerate(times.binding.tolist()):
        waited = events.before[events.first[event] : events.first[event + 1]]
        if binding < 0:
            assert len(waited) == 0
            assert times.begin_s[event] == 0
        else:
            assert binding in waited
            assert times.begin_s[event] == times.end_s[binding] == times.end_s[waited].max()


@given(programs())
def test_causes_are_what_they_say(program):
    times = times_of_program(program)
    graph = times.events.graph
    for task, row in enumerate(causes(times).itertuples()):
        if row.cause == "thread":
            assert row.by < task
        else:
            assert row.start_s == times.end_s[times.events.of_task[row.by]]
            same = graph.stream[row.by] == graph.stream[task]
            assert same == (row.cause == "stream")
            assert same or row.by in graph.dependencies_of(task)


@given(programs())
def test_the_critical_path_covers_the_makespan_without_gaps(program):
    times = times_of_program(program)
    path = times.critical_path()
    if len(path):
        assert times.begin_s[path[0]] == 0
        assert (times.begin_s[path[1:]] == times.end_s[path[:-1]]).all()
        assert times.end_s[path[-1]] == times.makespan_s
    assert times.length_s[path].sum() == pytest.approx(times.makespan_s, rel=1e-12, abs=1e-15)
    assert (times.slack_s()[path] == 0).all()
    assert set(times.events.kind[path]) <= {TASK, ISSUE, SYNC}


@settings(max_examples=200)
@given(programs(times=whole_seconds), st.data())
def test_a_delay_within_the_slack_costs_nothing_and_beyond_it_the_rest(program, data):
    program = replace(program, issue_s=0.25, sync_s=0.5)  # so that all sums are exact
    issued = issue(program)
    if not len(issued.graph):
        return
    times = times_of_issued(issued)
    task = data.draw(st.integers(0, len(issued.graph) - 1))
    slack = causes(times)["slack_s"][task]
    assert slack >= 0
    for delay in (slack / 2, slack, slack + 1):
        longer = issued.duration_s.copy()
        longer[task] += delay
        late = times_of_issued(issued, longer).makespan_s - times.makespan_s
        assert late == max(0.0, delay - slack)
