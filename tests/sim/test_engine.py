"""The reference engine: graphs worked by hand, and an independent recurrence on random ones.

In the pictures a column is one second and a letter a task; `i` is a second of issuing, `s` one of
synchronising, `.` idle.
"""

import numpy as np
import pytest
from hypothesis import given, settings

from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from schedules.routing import Routing
from schedules.task import Task
from sim.engine import simulate_graph
from tests.strategies import issue, programs

MANY = 10**6  # bytes: these graphs are not about memory


def issuer(*streams: str, hosts: int = 1, trace=None) -> RecordingIssuer:
    return RecordingIssuer(streams, {"gpu": MANY}, hosts, trace)


def finish(issuer: RecordingIssuer):
    issuer.barrier()
    return issuer.take()


def simulate(graph, seconds, issue_s=0.0, sync_s=0.0):
    return simulate_graph(
        graph, np.array(seconds, dtype=float), np.full(len(graph), float(issue_s)), sync_s
    )


# -- by hand ---------------------------------------------------------------------------------------


def test_streams_run_side_by_side_and_each_in_order():
    """Two streams without dependencies; b is short but waits for its turn.

    h2d  aaabb
    gpu  cc
    """
    i = issuer("h2d", "gpu")
    for op, stream in (("a", "h2d"), ("b", "h2d"), ("c", "gpu")):
        i.task(op, stream)
    run = simulate(finish(i), [3, 2, 2])
    assert run.start_s.tolist() == [0, 3, 0]
    assert run.end_s.tolist() == [3, 5, 2]
    assert run.makespan_s == 5


def test_a_double_buffer():
    """Load k + 2 overwrites what compute k reads, so it waits for it.

    h2d  0011....22..      loads take 2, computes 3
    gpu  ..000111...222
    """
    i = issuer("h2d", "gpu")
    slots = [i.buffer(f"weights[{k}]", "gpu", 1) for k in range(2)]
    for k in range(3):
        i.task("load", "h2d", writes=[slots[k % 2]])
        i.task("compute", "gpu", reads=[slots[k % 2]])
    run = simulate(finish(i), [2, 3, 2, 3, 2, 3])
    assert run.start_s.tolist() == [0, 2, 2, 5, 5, 8]
    assert run.makespan_s == 11


def test_a_diamond():
    """The join waits for the later branch.

    a  gpu  a........d
    b  h2d  .bbbb
    c  d2h  .cccccccc
    """
    i = issuer("gpu", "h2d", "d2h")
    x, y, z = (i.buffer(name, "gpu", 1) for name in "xyz")
    i.task("a", "gpu", writes=[x])
    i.task("b", "h2d", reads=[x], writes=[y])
    i.task("c", "d2h", reads=[x], writes=[z])
    i.task("d", "gpu", reads=[y, z])
    run = simulate(finish(i), [1, 4, 8, 1])
    assert run.start_s.tolist() == [0, 1, 1, 9]
    assert run.makespan_s == 10


def test_a_long_dependency_holds_up_what_queues_behind_it():
    """First in, first out: c is ready at 0 but stands behind b, which waits for a.

    h2d  aaaa
    gpu  ....bc
    """
    i = issuer("h2d", "gpu")
    x = i.buffer("x", "gpu", 1)
    i.task("a", "h2d", writes=[x])
    i.task("b", "gpu", reads=[x])
    i.task("c", "gpu")
    assert simulate(finish(i), [4, 1, 1]).start_s.tolist() == [0, 4, 5]


def test_issuing_costs_and_synchronising():
    """Issuing takes 1 s a task and runs ahead; a wait ends when its task has, and costs 2 s more.

    host  iii.ssiss      issues a, b, c; waits for a; issues d; waits for all
    gpu   .aaa           a is issued at 1
    h2d   ..b            b at 2
    d2h   ...c...d       c at 3; d at 4 + 2 + 1
    """
    i = issuer("h2d", "gpu", "d2h")
    a = i.task("a", "gpu")
    i.task("b", "h2d")
    i.task("c", "d2h")
    i.wait(a)
    i.task("d", "d2h")
    run = simulate(finish(i), [3, 1, 1, 1], issue_s=1, sync_s=2)
    assert run.start_s.tolist() == [1, 2, 3, 7]
    assert run.makespan_s == 10
    assert run.issuing_s.tolist() == [4 * 1 + 2 * 2]


def test_issuing_is_not_held_up_by_a_busy_stream():
    """Ten tasks are issued by 1.0 s, though the last starts at 9.

    gpu  0123456789        h2d  .x  issued at 1.1
    """
    i = issuer("gpu", "h2d")
    for _ in range(10):
        i.task("a", "gpu")
    i.task("x", "h2d")
    run = simulate(finish(i), [1] * 10 + [1], issue_s=0.1)
    assert run.start_s[9] == pytest.approx(9.1)
    assert run.start_s[10] == pytest.approx(1.1)


def test_tasks_wait_for_a_slow_issuing_thread():
    """Each task takes 0.1 s, but the next one is issued only every second.

    host  iiii
    gpu   .abc
    """
    i = issuer("gpu")
    for op in "abc":
        i.task(op, "gpu")
    run = simulate(finish(i), [0.1] * 3, issue_s=1)
    assert run.start_s.tolist() == [1, 2, 3]
    assert run.makespan_s == pytest.approx(3.1)


def test_a_wait_that_is_over_before_it_begins_still_costs():
    """The task has ended at 2; the thread comes to wait at 3, the second task's issue.

    host  i.. : issue_s 1, task a takes 0.5 (ends 1.5), b on h2d; wait(a) at 2, until 2.5; c at 3.5
    """
    i = issuer("gpu", "h2d")
    a = i.task("a", "gpu")
    i.task("b", "h2d")
    i.wait(a)
    i.task("c", "gpu")
    run = simulate(finish(i), [0.5, 0.5, 1], issue_s=1, sync_s=0.5)
    assert run.start_s.tolist() == [1, 2, 3.5]
    assert run.makespan_s == 5  # c ends at 4.5, and the barrier costs 0.5


def test_a_task_on_the_host_is_run_by_the_issuing_thread():
    """It stops issuing meanwhile, waits for what the task depends on, and counts as busy.

    gpu   .aaa.....        a is issued at 1
    host  i...pp           p is issued at 2, but reads what a writes at 4
    h2d   .......b         b is issued at 4 + 2 + 1
    """
    i = issuer("host", "h2d", "gpu")
    x = i.buffer("x", "gpu", 1)
    i.task("a", "gpu", writes=[x])
    i.task("p", "host", reads=[x])
    i.task("b", "h2d")
    run = simulate(finish(i), [3, 2, 1], issue_s=1)
    assert run.start_s.tolist() == [1, 4, 7]
    assert run.makespan_s == 8
    assert run.issuing_s.tolist() == [3]


def test_a_barrier_of_one_stream_does_not_wait_for_the_others():
    """host: a on gpu (5 s), b on h2d (1 s), barrier of h2d, c on d2h."""
    i = issuer("gpu", "h2d", "d2h")
    i.task("a", "gpu")
    i.task("b", "h2d")
    i.barrier(["h2d"])
    i.task("c", "d2h")
    i.barrier(["gpu", "h2d"])
    i.task("d", "d2h")
    assert simulate(finish(i), [5, 1, 1, 1]).start_s.tolist() == [0, 0, 1, 5]


def test_routing_blocks_the_issuing_thread_until_the_gate_has_run():
    """gate, wait, copy: the copy of the chosen expert is issued after the gate and the read-back.

    host  i..ssi..         the gate is issued at 1 and ends at 3; reading back costs 2
    gpu   .gg
    h2d   ......ee         issued at 6; with a pre-gated layer (below) it could start at 2
    """
    routing = Routing(seed=3)
    i = issuer("h2d", "gpu", trace=lambda gate: routing.trace(4, 8, 2, gate))
    gate = i.task("gate", "gpu", layer=5, micro_batch=1)
    ids = i.routing(gate)
    i.task("load_expert", "h2d", layer=5)
    assert ids.tolist() == routing.expert_ids(4, 8, 2, layer=5, step=0, micro_batch=1).tolist()
    run = simulate(finish(i), [2, 2], issue_s=1, sync_s=2)
    assert run.start_s.tolist() == [1, 6]

    i = issuer("h2d", "gpu")
    i.task("gate", "gpu", layer=5)
    i.task("load_expert", "h2d", layer=5)
    assert simulate(finish(i), [2, 2], issue_s=1, sync_s=2).start_s.tolist() == [1, 2]


def test_two_issuing_threads_do_not_hold_each_other_up():
    """Host 0 waits for its own slow task; host 1 goes on. Both wait at the barrier.

    gpu0  .aaaaa
    host0 i....i       b is issued at 6 + 1
    gpu1  .c           c is issued at 1, d at 2 by host 1
    """
    i = issuer("gpu0", "gpu1", hosts=2)
    a = i.task("a", "gpu0")
    i.wait(a)
    i.task("b", "gpu0")
    i.host = 1
    i.task("c", "gpu1")
    i.task("d", "gpu1")
    i.barrier()
    i.task("e", "gpu1")
    run = simulate(finish(i), [5, 1, 1, 1, 1], issue_s=1)
    assert run.start_s.tolist() == [1, 7, 1, 2, 9]
    assert run.issuing_s.tolist() == [2, 3]


def test_a_stream_shared_by_two_issuing_threads_keeps_the_order_of_issue():
    """The program lists host 0's tasks first; host 1's waits although it is issued earlier.

    host0 ii..     two seconds until its second task is issued
    cpu   .abbc    a at 1, b at 2, c (host 1's first, issued at 1) after them
    """
    i = issuer("cpu", hosts=2)
    i.task("a", "cpu")
    i.task("b", "cpu")
    i.host = 1
    i.task("c", "cpu")
    run = simulate(finish(i), [1, 2, 1], issue_s=1)
    assert run.start_s.tolist() == [1, 2, 4]


def test_no_stream_runs_two_tasks_at_once_even_when_two_threads_share_a_host_stream():
    """Law 1: one lane `host` for two issuing threads is refused, or runs one task at a time."""
    try:
        i = issuer("host", "gpu", hosts=2)
        i.task("a", "host")
        i.host = 1
        i.task("b", "host")
        run = simulate(finish(i), [5, 5])
    except BadInput:
        return
    assert run.start_s[1] >= run.end_s[0]


def test_an_empty_graph_takes_no_time_but_for_the_barrier():
    i = issuer("gpu")
    run = simulate(finish(i), [], sync_s=0.5)
    assert run.makespan_s == 0.5
    assert run.start_s.shape == run.end_s.shape == (0,)


def test_times_are_floats_even_where_all_tasks_start_at_zero():
    i = issuer("gpu")
    i.task("a", "gpu")
    run = simulate(finish(i), [1])
    assert (run.start_s.dtype, run.end_s.dtype) == (np.float64, np.float64)


# -- random graphs ---------------------------------------------------------------------------------


def recurrence(graph, duration_s, issue_s, sync_s):
    """start = max(stream free, dependencies' ends, issued), task by task in program order.

    Every task depends on earlier ones only, so one pass is enough.
    """
    n = len(graph)
    start, end = np.zeros(n), np.zeros(n)
    clock = [0.0] * graph.hosts  # when each issuing thread is free
    stream_free = [0.0] * len(graph.streams)
    waits = list(graph.waits)

    def pass_waits(position):
        while waits and waits[0].position <= position:
            wait = waits.pop(0)
            ends = [end[i] for i in wait.tasks]
            clock[wait.host] = max([clock[wait.host], *ends]) + sync_s

    for i in range(n):
        pass_waits(i)
        host, stream = graph.host[i], graph.stream[i]
        clock[host] += issue_s[i]
        ready = max([clock[host], *(end[j] for j in graph.dependencies_of(i))])
        start[i] = max(ready, stream_free[stream])
        end[i] = stream_free[stream] = start[i] + duration_s[i]
        if graph.streams[stream].startswith("host"):
            clock[host] = end[i]
    pass_waits(n)
    return start, end, max([*clock, *end])


@settings(max_examples=200)
@given(programs())
def test_equals_an_independent_recurrence(program):
    issued = issue(program)
    args = issued.graph, issued.duration_s, issued.issue_s, issued.sync_s
    run, (start, end, makespan) = simulate_graph(*args), recurrence(*args)
    np.testing.assert_allclose(run.start_s, start, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(run.end_s, end, rtol=1e-9, atol=1e-9)
    assert run.makespan_s == pytest.approx(makespan, rel=1e-9, abs=1e-9)


@given(programs())
def test_the_issuing_threads_pay_for_every_task_and_every_wait(program):
    issued = issue(program)
    graph = issued.graph
    run = simulate_graph(graph, issued.duration_s, issued.issue_s, issued.sync_s)
    for host in range(graph.hosts):
        waits = sum(wait.host == host for wait in graph.waits)
        mine = graph.host == host
        assert run.issuing_s[host] == pytest.approx(
            issued.issue_s[mine].sum() + waits * issued.sync_s
        )


@given(programs(max_hosts=1))
def test_nothing_ends_later_when_issuing_and_waiting_cost_nothing(program):
    issued = issue(program)
    free = simulate_graph(issued.graph, issued.duration_s)
    paid = simulate_graph(issued.graph, issued.duration_s, issued.issue_s, issued.sync_s)
    assert np.all(free.end_s <= paid.end_s * (1 + 1e-12))


# -- what is refused -------------------------------------------------------------------------------


def one_task():
    i = issuer("gpu")
    i.task("attention", "gpu")
    return finish(i)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_a_duration_must_be_a_finite_number_of_seconds(wrong):
    message = rf"duration_s of task 0 \('attention'\) is {wrong}; .* finite .* >= 0"
    with pytest.raises(BadInput, match=message):
        simulate_graph(one_task(), np.array([wrong]))
    with pytest.raises(BadInput, match=r"issue_s of task 0 \('attention'\)"):
        simulate_graph(one_task(), np.array([1.0]), np.array([wrong]))


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 1)])
def test_there_is_one_duration_for_each_task(shape):
    with pytest.raises(BadInput, match=r"duration_s has shape .* but the graph has 1 tasks"):
        simulate_graph(one_task(), np.ones(shape))
    with pytest.raises(BadInput, match=r"issue_s has shape"):
        simulate_graph(one_task(), np.ones(1), np.ones(shape))


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_synchronising_must_take_a_finite_time_too(wrong):
    with pytest.raises(BadInput, match="sync_s"):
        simulate_graph(one_task(), np.ones(1), sync_s=wrong)


def test_a_handle_says_what_was_issued():
    i = issuer("gpu", "h2d")
    i.step = 4
    i.task("a", "gpu")
    assert i.task("b", "h2d", layer=2, micro_batch=1) == Task(1, "b", "h2d", 2, 1, 4)
