"""The task graph: what was issued, as arrays."""

import gc
from itertools import pairwise
from weakref import ref

import networkx as nx
import numpy as np
import pytest
from hypothesis import given

from schedules.errors import BadInput
from schedules.graph import RecordingIssuer, Wait
from schedules.task import NOTHING, Work
from tests.strategies import issue, programs

COPY = Work(device="link", link_bytes={"h2d": 8}, calls=1)


def example(amount=8.0, step=0, issuer=None):
    """Two layers of weights through a double buffer.

    h2d  load 0, load 1            task 0, 2
    gpu  compute 0, compute 1           1, 3
    """
    issuer = issuer or RecordingIssuer(("h2d", "gpu"), {"gpu": 100})
    issuer.step = step
    copy = Work(device="link", link_bytes={"h2d": amount}, calls=1)
    slots = [issuer.buffer(f"weights[{k}]", "gpu", 1) for k in range(2)]
    for k in range(2):
        issuer.task("load", "h2d", writes=[slots[k]], work=copy, layer=k)
        issuer.task("compute", "gpu", reads=[slots[k]], layer=k, micro_batch=0)
    issuer.barrier()
    return issuer.take()


def test_the_arrays_of_a_small_graph():
    graph = example(step=3)
    assert len(graph) == 4
    assert graph.streams == ("h2d", "gpu")
    assert graph.ops == ("load", "compute")
    assert [graph.ops[op] for op in graph.op] == ["load", "compute"] * 2
    assert graph.stream.tolist() == [0, 1, 0, 1]
    assert [graph.works[w].total_link_bytes for w in graph.work] == [8, 0, 8, 0]
    assert graph.layer.tolist() == [0, 0, 1, 1]
    assert graph.micro_batch.tolist() == [-1, 0, -1, 0]
    assert graph.step.tolist() == [3] * 4
    assert graph.host.tolist() == [0] * 4
    assert graph.offsets.tolist() == [0, 0, 1, 1, 2]
    assert graph.dependencies.tolist() == [0, 2]
    assert graph.waits == (Wait(0, 4, (2, 3)),)


def test_the_same_work_is_stored_once():
    issuer = RecordingIssuer(("h2d",), {})
    for work in (COPY, NOTHING, COPY):
        issuer.task("a", "h2d", work=work)
    issuer.barrier()
    graph = issuer.take()
    assert graph.works == (COPY, NOTHING)
    assert graph.work.tolist() == [0, 1, 0]


def test_edges_for_networkx():
    """Data edges 0-1 and 2-3, stream edges 0-2 and 1-3."""
    net = example().to_networkx()
    kinds = nx.get_edge_attributes(net, "kind")
    assert kinds == {(0, 1): "data", (0, 2): "stream", (2, 3): "data", (1, 3): "stream"}
    assert net.nodes[2] == {"op": "load", "stream": "h2d", "layer": 1, "micro_batch": -1, "step": 0}


def test_an_empty_graph():
    issuer = RecordingIssuer(("h2d",), {})
    issuer.barrier()
    graph = issuer.take()
    assert (len(graph), graph.ops, graph.works) == (0, (), ())
    assert graph.dependencies.tolist() == []
    assert len(graph.to_networkx()) == 0


# -- one graph after another -----------------------------------------------------------------------


def test_the_next_graph_starts_from_nothing():
    """Tasks are counted from 0 again, and a wait for an earlier task names nobody."""
    issuer = RecordingIssuer(("h2d", "gpu"), {"gpu": 100})
    x = issuer.buffer("x", "gpu", 1)
    early = issuer.task("early", "h2d", writes=[x])
    issuer.barrier()
    first = issuer.take()
    assert issuer.task("late", "gpu", reads=[x], writes=[x]).number == 1
    issuer.wait(early)
    issuer.task("later", "h2d", reads=[x])
    issuer.barrier()
    second = issuer.take()
    assert first.ops == ("early",)
    assert second.ops == ("late", "later")
    assert second.dependencies.tolist() == [0]
    assert second.waits == (Wait(0, 1, ()), Wait(0, 2, (1, 0)))


def test_a_graph_is_taken_only_right_after_a_barrier_of_all_streams():
    issuer = RecordingIssuer(("h2d", "gpu"), {})
    issuer.task("a", "gpu")
    for wait in (lambda: None, lambda: issuer.barrier(["h2d", "gpu"])):
        wait()
        with pytest.raises(BadInput, match="only right after a barrier of all streams"):
            issuer.take()
    issuer.barrier()
    assert len(issuer.take()) == 1


# -- same structure --------------------------------------------------------------------------------


def test_steps_differ_in_amounts_and_step_numbers_only():
    assert example(amount=8, step=1).same_structure(example(amount=9, step=2))


def reordered(issuer):
    issuer.task("b", "gpu")
    issuer.task("a", "gpu")


def different_stream(issuer):
    issuer.task("a", "gpu")
    issuer.task("b", "h2d")


def different_layer(issuer):
    issuer.task("a", "gpu", layer=1)
    issuer.task("b", "gpu")


def another_wait(issuer):
    issuer.wait(issuer.task("a", "gpu"))
    issuer.task("b", "gpu")


def a_dependency(issuer):
    x = issuer.buffer("x", "gpu", 1)
    issuer.task("a", "gpu", writes=[x])
    issuer.task("b", "gpu")
    issuer.task("c", "h2d", reads=[x])


def no_dependency(issuer):
    issuer.task("a", "gpu")
    issuer.task("b", "gpu")
    issuer.task("c", "h2d")


def plain(issuer):
    issuer.task("a", "gpu")
    issuer.task("b", "gpu")


def recorded(program, streams=("h2d", "gpu"), hosts=1):
    issuer = RecordingIssuer(streams, {"gpu": 100}, hosts)
    program(issuer)
    issuer.barrier()
    return issuer.take()


@pytest.mark.parametrize("other", [reordered, different_stream, different_layer, another_wait])
def test_anything_else_is_another_structure(other):
    assert recorded(plain).same_structure(recorded(plain))
    assert not recorded(plain).same_structure(recorded(other))


def test_dependencies_streams_and_hosts_belong_to_the_structure():
    assert not recorded(a_dependency).same_structure(recorded(no_dependency))
    assert not recorded(plain).same_structure(recorded(plain, ("h2d", "gpu", "cpu")))
    assert not recorded(plain).same_structure(recorded(plain, hosts=2))


# -- random graphs ---------------------------------------------------------------------------------


@given(programs())
def test_dependencies_name_earlier_tasks_of_other_streams_once(program):
    graph = issue(program).graph
    for task in range(len(graph)):
        before = graph.dependencies_of(task)
        assert np.all(before < task)
        assert np.all(np.diff(before) > 0)
        streams = graph.stream[before].tolist()
        assert len(set(streams)) == len(streams)
        assert graph.stream[task] not in streams


@given(programs())
def test_waits_are_sorted_and_name_tasks_before_them(program):
    graph = issue(program).graph
    positions = [wait.position for wait in graph.waits]
    assert positions == sorted(positions)
    assert all(task < wait.position for wait in graph.waits for task in wait.tasks)
    ends = [wait.host for wait in graph.waits if wait.position == len(graph)]
    assert set(range(graph.hosts)) <= set(ends)  # everybody waits at the end


@given(programs())
def test_networkx_has_all_tasks_and_only_edges_forward(program):
    graph = issue(program).graph
    net = graph.to_networkx()
    assert sorted(net) == list(range(len(graph)))
    assert all(i < j for i, j in net.edges)
    data = {(i, j) for i, j, kind in net.edges(data="kind") if kind == "data"}
    assert data == {(int(i), j) for j in range(len(graph)) for i in graph.dependencies_of(j)}
    chains = [np.flatnonzero(graph.stream == s).tolist() for s in range(len(graph.streams))]
    stream = {(i, j) for i, j, kind in net.edges(data="kind") if kind == "stream"}
    assert stream == {(i, j) for chain in chains for i, j in pairwise(chain)}


def test_a_run_s_memory_goes_with_the_run():
    """Without a circle of references, for which Python would have to look."""
    issuer = RecordingIssuer(("gpu",), {"gpu": 10})
    buffer = issuer.buffer("x", "gpu", 1)
    gone = ref(issuer)
    gc.disable()
    try:
        del issuer
        assert gone() is None
    finally:
        gc.enable()
    assert buffer.bytes == 1
