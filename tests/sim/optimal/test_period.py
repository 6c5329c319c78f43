"""The best period of tasks that repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from sim.compiled import simulate_graph
from sim.optimal.cycle import cycle, recorded_layers, unrolled
from sim.optimal.flow import flow
from sim.optimal.greedy import greedy
from sim.optimal.period import best_period, turns_of
from sim.optimal.problem import order_of, ordered
from sim.optimal.solver import Limits
from sim.optimal.tight import period_bounds, tightened
from tests.sim.optimal.orders import COMPUTE, COPY, issuer, judge

QUICK = Limits(seconds=1.0)
PERIODS = 8


def layers_of(program, seconds, layers=1):
    """The cycle of a program that issues one layer when called, and its own steady state."""
    made = issuer()
    issue = program(made)
    for layer in range(recorded_layers(layers)):
        issue(layer)
    made.barrier()
    graph = made.take()
    duration = np.array([seconds[graph.ops[op]] for op in graph.op], dtype=np.float64)
    found = cycle(graph, duration, flow(made.accesses), 0, layers)
    run = simulate_graph(graph, duration)
    starts = [found.starts_of(run.start_s, late) for late in (1, 2)]
    period = float((starts[1] - starts[0]).max())  # loads may still run ahead, faster
    return found, graph, starts[1], period


def streamed(slots):
    """Each layer's weights come into one of the slots."""

    def program(made):
        home = made.buffer("home", "cpu", 90)
        places = [made.buffer(f"slot[{i}]", "gpu", 10) for i in range(slots)]

        def load(layer):
            made.task("load", "h2d", [home], [places[layer % slots]], COPY, layer=layer)

        def issue(layer):
            load(layer)
            made.task("compute", "gpu", [places[layer % slots]], [], COMPUTE, layer=layer)

        return issue

    return program


def two_kinds(made):
    """A long copy for the layer and a short one for the micro-batch, the long one issued first."""
    home = made.buffer("home", "cpu", 90)
    slots = [made.buffer(f"slot[{i}]", "gpu", 10) for i in range(2)]
    x = [made.buffer(f"x[{i}]", "gpu", 1) for i in range(2)]
    host = [made.buffer(f"y[{i}]", "cpu", 1) for i in range(2)]

    def issue(layer):
        made.task("weights", "h2d", [home], [slots[layer % 2]], COPY, layer=layer)
        for j in range(2):
            made.task("bring", "h2d", [host[j]], [x[j]], COPY, layer=layer, micro_batch=j)
            read = [slots[layer % 2], x[j]]
            made.task("compute", "gpu", read, [host[j]], COMPUTE, layer=layer, micro_batch=j)

    return issue


def solved(found, graph, start, period, limits=QUICK):
    best = best_period(found, start, period, limits=limits)
    assert best.bound_s <= best.period_s <= period * (1 + 1e-9)
    if best.turns is not None:
        judge_period(found, graph, best.turns)
    return best


def judge_period(found, graph, turns):
    """Several periods keep every rule, and the engine needs no longer for them in this order."""
    problem, number = unrolled(found, graph, PERIODS)
    start = np.empty(len(problem))
    for period in range(PERIODS):
        start[number[period]] = turns.start + period * turns.period
    start -= start.min()
    end = start + problem.duration_s
    judge(problem, start, end)
    run = simulate_graph(ordered(problem, start, end), problem.duration_s[order_of(start)])
    assert (run.end_s <= end[order_of(start)] * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize(
    ("slots", "period", "binds"), [(1, 5.0, "places"), (2, 3.0, "gpu"), (3, 3.0, "gpu")]
)
def test_one_slot_takes_turns_and_two_overlap(slots, period, binds):
    made = layers_of(streamed(slots), {"load": 2.0, "compute": 3.0})
    assert made[3] == pytest.approx(period)
    best = solved(*made)
    assert (best.period_s, best.bound_s) == pytest.approx((period, period))
    assert best.proved
    assert max(best.bounds_s, key=lambda name: best.bounds_s[name]) == binds


def copies_in_the_wrong_order(made):
    """The copy that waits for the layer before is issued ahead of the one that could run."""
    home = made.buffer("home", "cpu", 90)
    slots = [made.buffer(f"slot[{i}]", "gpu", 10) for i in range(2)]
    x, y = made.buffer("x", "gpu", 1), made.buffer("y", "cpu", 1)

    def issue(layer):
        made.task("bring", "h2d", [y], [x], COPY, layer=layer)
        made.task("weights", "h2d", [home], [slots[layer % 2]], COPY, layer=layer)
        made.task("compute", "gpu", [slots[layer % 2], x], [y], COMPUTE, layer=layer)

    return issue


def test_a_better_order_than_as_issued():
    made = layers_of(copies_in_the_wrong_order, {"weights": 4.0, "bring": 1.0, "compute": 2.0})
    assert made[3] == pytest.approx(7.0)  # one after the other
    best = solved(*made)
    assert best.period_s == pytest.approx(5.0)  # h2d never waits
    assert best.proved


def test_two_layers_in_a_period_take_twice_as_long():
    one = layers_of(streamed(2), {"load": 2.0, "compute": 3.0})
    two = layers_of(streamed(2), {"load": 2.0, "compute": 3.0}, layers=2)
    assert len(two[0]) == 2 * len(one[0])
    assert solved(*two).period_s == pytest.approx(2 * solved(*one).period_s)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.floats(0.1, 9), st.floats(0.1, 9))
def test_a_double_buffer_overlaps_and_a_single_one_does_not(slots, load, compute):
    made = layers_of(streamed(slots), {"load": load, "compute": compute})
    best = solved(*made)
    expected = load + compute if slots == 1 else max(load, compute)
    assert best.period_s == pytest.approx(expected)
    assert best.proved


@settings(max_examples=8, deadline=None)
@given(*[st.floats(0.5, 9)] * 3)
def test_bounds_hold_and_no_order_is_worse_than_the_schedules(weights, bring, compute):
    made = layers_of(two_kinds, {"weights": weights, "bring": bring, "compute": compute})
    best = solved(*made, limits=Limits(seconds=0.5))
    simple = period_bounds(made[0])
    assert best.period_s >= max(simple.values()) * (1 - 1e-9)


def test_the_linear_program_agrees_with_the_engine():
    found, graph, _, _ = layers_of(two_kinds, {"weights": 4.0, "bring": 1.0, "compute": 2.0})
    problem, number = unrolled(found, graph, 12)
    start, end = greedy(problem, np.arange(len(problem)))
    judge(problem, start, end)
    period = start[number[8, 0]] - start[number[7, 0]]
    turns = turns_of(start[number[7]], period)
    tight = tightened(found, turns, turns.offset + found.duration_s, found.duration_s)
    assert tight.period == pytest.approx(period)
    judge_period(found, graph, tight)


@pytest.mark.parametrize("turn", [(0, -2), (0, -1), (-1, 0), (1, 0), (0, 1)])
def test_an_order_that_breaks_a_rule_is_mended_or_none(turn):
    found, graph, _, _ = layers_of(streamed(1), {"load": 2.0, "compute": 3.0})
    wrong = turns_of(np.array([0.0, 3.0]), 5.0)._replace(turn=np.array(turn))
    tight = tightened(found, wrong, wrong.offset + found.duration_s, found.duration_s)
    if tight is not None:
        assert tight.period >= 5.0 - 1e-9
        judge_period(found, graph, tight)


def test_layers_that_differ_are_refused():
    def program(made):
        def issue(layer):
            for _ in range(1 + layer % 2):
                made.task("compute", "gpu", [], [], COMPUTE, layer=layer)

        return issue

    with pytest.raises(BadInput, match="layers 3 and 4 differ, so no period of 1 layer repeats"):
        layers_of(program, {"compute": 1.0})
    assert len(layers_of(program, {"compute": 1.0}, layers=2)[0]) == 3


def test_tasks_without_a_layer_are_refused():
    def program(made):
        x = made.buffer("x", "gpu", 1)

        def issue(layer):
            made.task("stray", "h2d", [], [x], COPY)
            made.task("compute", "gpu", [x], [], COMPUTE, layer=layer)

        return issue

    with pytest.raises(BadInput, match="belong to no layer or to another step"):
        layers_of(program, {"compute": 1.0, "stray": 1.0})
