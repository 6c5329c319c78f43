"""Little work without the kernels: the same bits, and what decides."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim import compiled, engines, interpreted
from sim.api import Question
from sim.cost import Roofline
from sim.decoding import Steps
from sim.engines import engine
from sim.generation import Generation
from sim.padded import MOST
from sim.scenario import place
from tests.sim.graphs import timed_graphs

NEITHER = {"shared": st.just(False), "lanes": st.just(False)}


@settings(max_examples=200)
@given(timed_graphs(**NEITHER))
def test_a_run_is_that_of_the_kernels_to_the_bit(timed):
    assert interpreted.can_interpret(timed.graph)
    a, b = interpreted.simulate_graph(*timed[:4]), compiled.simulate_graph(*timed[:4])
    assert a.start_s.tobytes() == b.start_s.tobytes()
    assert a.end_s.tobytes() == b.end_s.tobytes()
    assert a.issuing_s.tobytes() == b.issuing_s.tobytes()
    assert a.makespan_s == b.makespan_s


@settings(max_examples=100)
@given(timed_graphs(**NEITHER), st.integers(1, 9), st.booleans())
def test_steps_are_those_of_the_kernels_to_the_bit(timed, count, short):
    """With few dependencies and one thread the kernels lay the graph out (`sim.padded`)."""
    graph = timed.graph
    if "host0" not in graph.streams:  # a thread's seconds are those of a stream
        hosts = [f"host{host}" for host in range(graph.hosts)]
        graph = replace(graph, streams=(*graph.streams, *hosts), lanes=())
    if short:
        few = np.minimum(np.diff(graph.offsets), MOST)
        kept = [graph.dependencies_of(i)[:n] for i, n in enumerate(few.tolist())]
        offsets = np.concatenate([[0], np.cumsum(few)])
        tasks = np.concatenate([np.zeros(0, np.int64), *kept])
        graph = replace(graph, offsets=offsets, dependencies=tasks)
    low = np.stack([timed.duration_s, timed.duration_s[::-1]], axis=1)
    high = low * 1.3 + 0.1
    fixed = timed.duration_s / 7
    steps = Steps(graph, graph, 1, count, low, high, fixed, timed.issue_s)
    found = interpreted.step_totals(steps, timed.sync_s)
    assert found.tobytes() == compiled.step_totals(steps, timed.sync_s).tobytes()


def generation(name, hardware, n, mu):
    scenario = Question("mixtral-8x7b", hardware, "mtbench", 6).scenario()
    kind = find_schedule(name)
    schedule = place(scenario, kind, make_policy({"N": n, "mu": mu}))
    return Generation(schedule, Roofline(scenario.hardware, scenario.gpus_for(kind)))


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        ("cgopipe", "gcp-t4-24c"),
        ("flexgen", "gcp-t4-24c"),
        ("flexgen", "gcp-t4x2-32c"),
        ("on-demand", "gcp-t4-24c"),
    ],
)
def test_a_generation_does_not_depend_on_who_simulates_it(name, hardware, monkeypatch):
    mu = 8 if name == "on-demand" else 4
    monkeypatch.setattr(engines, "LITTLE", interpreted.Allowance(np.inf))
    little = generation(name, hardware, 8, mu)
    monkeypatch.setattr(engines, "LITTLE", interpreted.Allowance(0))
    much = generation(name, hardware, 8, mu)
    assert little.prefill.totals.tobytes() == much.prefill.totals.tobytes()
    assert little.decode.tobytes() == much.decode.tobytes()


def test_the_kernels_take_over_where_there_is_much_to_do(monkeypatch):
    calls = []
    monkeypatch.setattr(compiled, "simulate_graph", lambda *_: calls.append("compiled"))
    monkeypatch.setattr(interpreted, "simulate_graph", lambda *_: calls.append("interpreted"))
    graph = generation("cgopipe", "gcp-t4-24c", 8, 4).prefill.graph
    zeros = np.zeros(len(graph))
    monkeypatch.setattr(engines, "LITTLE", interpreted.Allowance(2 * len(graph)))
    calls.clear()
    for _ in range(4):
        engine("compiled").run(graph, zeros, zeros, 0.0)
    assert calls == ["interpreted", "interpreted", "compiled", "compiled"]


@given(timed_graphs(shared=st.just(False), lanes=st.just(True)))
def test_streams_with_lanes_are_for_the_kernels(timed):
    assert not interpreted.can_interpret(timed.graph)


def test_what_is_waited_for_has_to_come_earlier():
    graph = generation("cgopipe", "gcp-t4-24c", 8, 4).prefill.graph
    assert interpreted.can_interpret(graph)
    late = graph.dependencies.copy()
    late[0] = len(graph) - 1
    assert not interpreted.can_interpret(replace(graph, dependencies=late))


@given(timed_graphs(**NEITHER))
def test_wrong_durations_are_refused(timed):
    with pytest.raises(BadInput, match="duration_s"):
        interpreted.simulate_graph(timed.graph, timed.duration_s - 3.0)
