"""Steps side by side are those that run one after another, to the bit."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.task import NOTHING
from sim import compiled
from sim.decoding import Steps
from tests.sim.graphs import timed_graphs

NEITHER = {"shared": st.just(False), "lanes": st.just(False)}
KINDS = 3


def steps_of(timed, rng, count):
    """Steps of a graph whose tasks have one of three works each."""
    work = rng.integers(0, KINDS, len(timed.graph))
    graph = replace(timed.graph, works=(NOTHING,) * KINDS, work=work)
    low = rng.choice([0.0, 0.5, 1.0, *rng.random(2)], (KINDS, 4))
    high = low + rng.choice([0.0, 1.0, *rng.random(2)], (KINDS, 4))
    fixed, issue = rng.random(KINDS), rng.choice([0.0, 0.125, *rng.random(1)], KINDS)
    return Steps(graph, graph, 3, 2 + count, low[work], high[work], fixed[work], issue[work])


@settings(max_examples=200)
@given(timed_graphs(**NEITHER), st.integers(compiled.FEW, 40), st.integers(0, 2**32 - 1))
def test_makespans_are_those_of_single_runs(timed, count, seed):
    steps = steps_of(timed, np.random.default_rng(seed), count)
    found = compiled.step_totals(with_threads(steps), timed.sync_s)
    for row, step in enumerate(range(steps.first, steps.last + 1)):
        times = steps.duration_s(step), steps.issue_s, timed.sync_s
        assert found[row, 0] == compiled.simulate_graph(steps.graph, *times).makespan_s


@given(timed_graphs(**NEITHER), st.integers(compiled.FEW, 40), st.integers(0, 2**32 - 1))
def test_busy_seconds_are_those_of_the_tasks(timed, count, seed):
    steps = with_threads(steps_of(timed, np.random.default_rng(seed), count))
    found = compiled.step_totals(steps, timed.sync_s)
    streams = steps.graph.streams
    for row, step in enumerate(range(steps.first, steps.last + 1)):
        expected = np.bincount(steps.graph.stream, steps.duration_s(step), len(streams))
        devices = [i for i, name in enumerate(streams) if not name.startswith("host")]
        np.testing.assert_allclose(found[row, 1:][devices], expected[devices], rtol=1e-12)


def with_threads(steps):
    """The same with a stream for each issuing thread, whose seconds are told there."""
    graph = steps.graph
    if "host0" not in graph.streams:
        hosts = [f"host{host}" for host in range(graph.hosts)]
        graph = replace(graph, streams=(*graph.streams, *hosts))
    return replace(steps, graph=graph, end=graph)
