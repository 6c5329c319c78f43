"""The compiled engine against the reference: the same times, to 1e-9, and the same bits again."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import issuer
from schedules.errors import BadInput
from schedules.graph import TaskGraph, Wait
from schedules.policy import make_policy
from schedules.schedule import find_schedule, schedules
from schedules.task import NOTHING
from sim import batch, compiled, engine, kernels
from sim.api import Question
from sim.cost import Roofline, price
from sim.deadlock import Stuck
from sim.engines import ENGINES
from sim.engines import engine as engine_named
from sim.generation import Generation, issue_phase
from sim.padded import can_pad, pad
from sim.scenario import place
from tests.sim.graphs import numbered, numbered_program, timed_graphs
from tests.strategies import issue, programs

RELATIVE = 1e-9


def times(run):
    """All that an engine says, as one array."""
    return np.concatenate([run.start_s, run.end_s, run.issuing_s, [run.makespan_s]])


def same(a, b, where=""):
    apart = np.abs(times(a) - times(b)).max()
    assert apart <= RELATIVE * max(1.0, a.makespan_s), f"{apart} s apart {where}"


def same_bits(a, b, where=""):
    assert times(a).tobytes() == times(b).tobytes(), f"other bits {where}"


@settings(max_examples=200)
@given(timed_graphs())
def test_it_equals_the_reference(timed):
    """One graph at a time: what fails is shrunk to a small one."""
    same(engine.simulate_graph(*timed), compiled.simulate_graph(*timed))


@given(timed_graphs())
def test_the_same_bits_again(timed):
    for simulate_graph in (engine.simulate_graph, compiled.simulate_graph):
        same_bits(simulate_graph(*timed), simulate_graph(*timed))


def check_many(make, seed):
    """Twelve graphs: three of each, with and without lanes, with and without channels.

    `make(seed, number)` makes one again, with what it is like. The reference is asked a second time
    for a third of them, the compiled engine for all.
    """
    for number in range(12):
        shape, timed = make(seed, number)
        where = f"in {make.__name__}({seed}, {number}), {shape}"
        expected, found = engine.simulate_graph(*timed), compiled.simulate_graph(*timed)
        same(expected, found, where)
        same_bits(found, compiled.simulate_graph(*timed), where)
        if number < 4:
            same_bits(expected, engine.simulate_graph(*timed), where)


@settings(max_examples=600)
@given(st.integers(0, 2**32 - 1))
def test_thousands_of_graphs(seed):
    """7,200 graphs of up to 40 tasks: 5 streams, 3 lanes, 3 channels, 3 threads and their waits."""
    check_many(numbered, seed)


@settings(max_examples=250)
@given(st.integers(0, 2**32 - 1))
def test_thousands_of_recorded_programs(seed):
    """3,000 graphs that an issuer recorded: buffers, memory freed and reused, waits, barriers."""
    check_many(numbered_program, seed)


def test_the_programs_use_memory_again(monkeypatch):
    """Or the test above would say little: what is taken waits for who used the memory before."""
    reused = []
    monkeypatch.setattr(issuer, "_inherit", lambda made, old: reused.append(made))
    graphs = [numbered_program(0, number)[1].graph for number in range(120)]
    assert len(reused) > 60
    assert sum(len(graph.waits) > graph.hosts for graph in graphs) > 60
    assert sum(len(graph) > 10 for graph in graphs) > 60


@given(timed_graphs(shared=st.just(False)))
def test_both_loops_agree(timed):
    """One lane each is the same as no lanes, and goes through the event loop."""
    graph = replace(timed.graph, lanes=(1,) * len(timed.graph.streams))
    plain = timed._replace(graph=replace(timed.graph, lanes=()))
    same(compiled.simulate_graph(*plain), compiled.simulate_graph(*timed._replace(graph=graph)))


def with_one_thread(timed):
    """The same tasks with two dependencies at most, issued by one thread."""
    graph, kept = timed.graph, []
    for task in range(len(graph)):
        kept.append(graph.dependencies_of(task)[:2])
    streams = [i for i, name in enumerate(graph.streams) if name == "host1"]
    stream = np.where(np.isin(graph.stream, streams), 0, graph.stream)
    return timed._replace(
        graph=replace(
            graph,
            hosts=1,
            stream=stream,
            host=np.zeros(len(graph), np.int64),
            offsets=np.concatenate([[0], np.cumsum([len(k) for k in kept])]),
            dependencies=np.concatenate([np.zeros(0, np.int64), *kept]),
            waits=tuple(replace(wait, host=0) for wait in graph.waits),
        )
    )


@settings(max_examples=200)
@given(timed_graphs(shared=st.just(False), lanes=st.just(False)))
def test_the_loop_without_branches(timed):
    graph, duration_s, issue_s, sync_s, _ = timed = with_one_thread(timed)
    assert can_pad(graph)
    start, end, issuing = np.empty(len(graph)), np.empty(len(graph) + 1), np.zeros(1)
    rest = duration_s, issue_s, sync_s, start, end, issuing
    makespan = kernels.padded_pass(pad(graph), *rest)
    expected = compiled.simulate_graph(*timed)
    assert start.tobytes() == expected.start_s.tobytes()
    assert end[1:].tobytes() == expected.end_s.tobytes()
    assert makespan == expected.makespan_s
    assert issuing[0] == pytest.approx(expected.issuing_s[0])


@settings(max_examples=50)
@given(timed_graphs(shared=st.just(False)), st.integers(1, 40), st.booleans())
def test_many_scenarios_at_once(timed, count, one_thread):
    graph, duration_s, issue_s, sync_s, _ = with_one_thread(timed) if one_thread else timed
    factors = np.linspace(0.5, 2, count)[:, None]
    sync = sync_s * np.linspace(0, 1, count)
    found = batch.makespans(graph, duration_s * factors, issue_s / factors, sync)
    for number, makespan in enumerate(found):
        factor = factors[number, 0]
        arguments = duration_s * factor, issue_s / factor, sync[number]
        assert makespan == compiled.simulate_graph(graph, *arguments).makespan_s


def test_scenarios_by_work():
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "fixed-16", gen_len=2).scenario()
    schedule = place(scenario, find_schedule("cgopipe"), make_policy({"N": 8, "mu": 2}))
    graph, costs = issue_phase(schedule, 1), []
    for factor in (1, 2, 4):
        costs.append(Roofline(scenario.hardware.with_rate("links", factor)))
    seconds = np.array([[cost.seconds(work) for work in graph.works] for cost in costs])
    found = batch.makespans(graph, seconds)
    each = [compiled.simulate_graph(graph, price(graph, cost)[0]).makespan_s for cost in costs]
    assert found.tolist() == each
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(
    ("seconds", "issue_s", "sync_s", "message"),
    [
        (
            np.ones((3, 5)),
            None,
            0.0,
            r"seconds has shape \(3, 5\); it must be \(scenarios, 1 works\)",
        ),
        (-np.ones((3, 2)), None, 0.0, "seconds must be finite numbers of seconds >= 0"),
        (np.ones((3, 2)), np.ones((2, 2)), 0.0, "issue_s has 2 scenarios, seconds 3"),
        (np.ones((3, 2)), None, -1.0, "sync_s must be finite numbers of seconds >= 0"),
    ],
)
def test_impossible_scenarios(seconds, issue_s, sync_s, message):
    with pytest.raises(BadInput, match=message):
        batch.makespans(chain([], [0]), seconds, issue_s, sync_s)


@settings(max_examples=200)
@given(programs())
def test_what_an_issuer_records(program):
    issued = issue(program)
    arguments = issued.graph, issued.duration_s, issued.issue_s, issued.sync_s
    same(engine.simulate_graph(*arguments), compiled.simulate_graph(*arguments))


@pytest.mark.parametrize("name", sorted(schedules()))
@pytest.mark.parametrize("model", ["mixtral-8x7b", "qwen3-30b-a3b", "switch-base-8"])
def test_every_schedule(name, model):
    scenario = Question(model, "gcp-t4-208g", "fixed-16", gen_len=4).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(3))
    kind = find_schedule(name)
    policy = make_policy({"N": 3, "mu": 3 if kind.one_batch else 2})
    runs = [
        Generation(place(scenario, kind, policy), Roofline(scenario.hardware), engine_name)
        for engine_name in ENGINES
    ]
    same(runs[0].prefill.run, runs[1].prefill.run)
    np.testing.assert_allclose(runs[0].decode, runs[1].decode, rtol=RELATIVE)


# -- tasks that wait for one another ---------------------------------------------------------------

BOTH = pytest.mark.parametrize("simulate_graph", [engine.simulate_graph, compiled.simulate_graph])


def chain(first, second):
    """Two tasks on two streams of one thread, with the dependencies of each."""
    zeros = np.zeros(2, np.int64)
    return TaskGraph(
        streams=("h2d", "gpu"),
        works=(NOTHING,),
        ops=("load", "compute"),
        op=np.array([0, 1]),
        stream=np.array([0, 1]),
        **dict.fromkeys(("work", "layer", "micro_batch", "step", "host"), zeros),
        offsets=np.array([0, len(first), len(first) + len(second)]),
        dependencies=np.array([*first, *second], dtype=np.int64),
        waits=(),
        hosts=1,
        lanes=(),
    )


@BOTH
def test_a_circle_of_dependencies(simulate_graph):
    with pytest.raises(
        Stuck, match=r"task 0 \('load' on h2d, layer 0, micro-batch 0, step 0\) after task 1"
    ):
        simulate_graph(chain([1], [0]), np.ones(2))


@BOTH
def test_a_task_that_waits_for_itself(simulate_graph):
    with pytest.raises(Stuck, match=r"task 1 \('compute' on gpu.* after task 1"):
        simulate_graph(chain([], [1]), np.ones(2))


@BOTH
def test_a_thread_that_waits_for_what_it_has_yet_to_issue(simulate_graph):
    graph = replace(chain([], []), waits=(Wait(0, 1, (1,)),))
    with pytest.raises(Stuck, match=r"task 1 .* after task 1"):
        simulate_graph(graph, np.ones(2))


@BOTH
def test_a_dependency_on_a_later_task_is_no_circle(simulate_graph):
    run = simulate_graph(chain([1], []), np.array([1.0, 2.0]))
    assert run.start_s.tolist() == [2, 0]
    assert run.makespan_s == 3


def test_an_unknown_engine():
    with pytest.raises(BadInput, match="unknown engine 'compile', did you mean 'compiled'"):
        engine_named("compile")
