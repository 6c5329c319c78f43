"""Queues of streams and issuing threads in the compiled engine."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sim import compiled
from sim.kernels_queues import in_groups, make_queues
from tests.sim.graphs import timed_graphs


@given(arrays("int32", st.integers(0, 30), elements=st.integers(0, 4)))
def test_groups_keep_the_order(group):
    tasks, first = in_groups(group, 6)
    for g in range(6):
        assert tasks[first[g] : first[g + 1]].tolist() == [i for i, x in enumerate(group) if x == g]
    assert first[0] == 0
    assert first[-1] == len(group)


@given(timed_graphs())
def test_streams_come_before_threads(timed):
    graph = timed.graph
    lanes = np.array([graph.lanes_of(s) for s in range(len(graph.streams))])
    queues, queued, program = make_queues(compiled.plan(graph), lanes)
    assert queues["free"].tolist() == [*lanes, *[1] * graph.hosts]
    for s, queue in enumerate(queues[: len(lanes)]):
        tasks = queued[queue["next"] : queue["until"]]
        assert (graph.stream[tasks] == s).all()
    for h, queue in enumerate(queues[len(lanes) :]):
        tasks = program[queue["next"] : queue["until"]]
        assert (graph.host[tasks] == h).all()
