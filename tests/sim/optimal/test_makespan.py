"""The best order of a finite set of tasks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from sim.compiled import simulate_graph
from sim.engine import simulate_graph as simulate_on_simpy
from sim.optimal.greedy import greedy, runs_in
from sim.optimal.makespan import best_order, replayed
from sim.optimal.problem import order_of, ordered
from sim.optimal.solver import Limits, cp_model, grid_of
from tests.sim.optimal.orders import COMPUTE, COPY, jobs, judge, problem_of

QUICK = Limits(seconds=0.5)


def own_order(problem):
    """Start and end when the tasks run in the order of issue."""
    order = np.arange(len(problem), dtype=np.float64)
    return replayed(problem, problem.duration_s, order, order + 0.5)


def solved(problem, limits=QUICK):
    found = best_order(problem, *own_order(problem), limits)
    judge(problem, found.start_s, found.end_s)
    assert found.bound_s <= found.makespan_s == found.end_s.max()
    return found


def johnson(times):
    """The best makespan of a flow shop of two machines (Johnson, 1954)."""
    early = sorted((t for t in times if t[0] < t[1]), key=lambda t: t[0])
    late = sorted((t for t in times if t[0] >= t[1]), key=lambda t: -t[1])
    first = second = 0.0
    for load, compute in early + late:
        first += load
        second = max(second, first) + compute
    return second


def test_the_short_copy_first():
    problem = problem_of(jobs([(3, 1), (1, 3)], slots=2))
    assert own_order(problem)[1].max() == 7  # 0-3 load, 3-4 load, 4-7 compute
    found = solved(problem)
    assert (found.makespan_s, found.proved) == (5.0, True)  # 0-1 load, 1-4 both, 4-5 compute
    assert found.bounds_s == {"h2d": 4.0, "gpu": 4.0, "data": 4.0}


def test_one_slot_leaves_nothing_to_gain():
    found = solved(problem_of(jobs([(3, 1), (1, 3)], slots=1)))
    assert (found.makespan_s, found.proved) == (8.0, True)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
)
def test_flow_shops_are_solved_as_johnson_does(times):
    found = solved(problem_of(jobs(times, slots=len(times))))
    assert found.makespan_s == pytest.approx(johnson(times))


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=2, max_size=5),
    st.integers(1, 3),
)
def test_never_longer_than_as_issued_and_never_below_the_bound(times, slots):
    problem = problem_of(jobs(times, slots))
    found = solved(problem)
    assert found.makespan_s <= own_order(problem)[1].max() * (1 + 1e-9)
    assert found.bound_s >= max(found.bounds_s.values()) * (1 - 1e-9)
    start, end = greedy(problem, np.arange(len(problem)))
    judge(problem, start, end)
    assert found.makespan_s <= end.max() * (1 + 1e-9)


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=2, max_size=5),
    st.integers(1, 3),
)
def test_both_engines_run_the_order_that_was_found(times, slots):
    problem = problem_of(jobs(times, slots))
    found = solved(problem)
    order = order_of(found.start_s)
    graph = ordered(problem, found.start_s, found.end_s)
    for simulate in (simulate_graph, simulate_on_simpy):
        run = simulate(graph, problem.duration_s[order])
        assert (run.end_s <= found.end_s[order] * (1 + 1e-9)).all()


def test_what_was_there_before_and_what_stays_take_places():
    def program(made):
        slots = [made.buffer(f"slot[{i}]", "gpu", 10) for i in range(2)]
        for step in range(3):
            made.task("load", "h2d", [], [slots[step % 2]], COPY)
            if step:
                made.task("compute", "gpu", [slots[(step - 1) % 2]], [], COMPUTE)
        return [1, 1, 1, 1, 1]

    problem = problem_of(program)
    assert [(s.opens, s.users, s.stays) for s in problem.stays] == [
        (0, (0, 2), False),
        (1, (1, 4), False),
        (3, (3,), False),
    ]
    assert solved(problem).makespan_s == 3.0


def test_an_order_that_does_not_fit_is_seen():
    problem = problem_of(jobs([(1, 1), (1, 1), (1, 1)], slots=1))
    assert runs_in(problem, np.arange(6))
    assert not runs_in(problem, np.array([0, 2, 1, 3, 4, 5]))  # two lie in one slot
    assert not runs_in(problem, np.array([1, 0, 2, 3, 4, 5]))  # computed before it has come


def test_the_same_answer_each_time():
    problem = problem_of(jobs([(3, 1), (1, 3), (2, 2)], slots=3))
    alone = Limits(seconds=5.0, workers=1)
    one, other = solved(problem, alone), solved(problem, alone)
    assert np.array_equal(one.start_s, other.start_s)


def test_durations_are_rounded_down():
    grid = grid_of(np.array([1.0, 0.333333333, 0.0]))
    assert grid.units.tolist() == [100_000, 33_333, 0]
    assert grid.seconds(grid.units[1]) <= 0.333333333
    assert grid_of(np.array([1.0, 3e-6])).units.tolist() == [333_333, 1]


def test_nothing_to_order():
    problem = problem_of(jobs([(0, 0)], slots=1))
    with pytest.raises(BadInput, match="none of the tasks takes time"):
        best_order(problem, np.zeros(2), np.zeros(2), QUICK)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_time_limits_that_make_no_sense(seconds):
    with pytest.raises(BadInput, match="it must be above 0 and finite"):
        Limits(seconds)


def test_without_the_solver_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ortools.sat.python", None)
    with pytest.raises(BadInput, match=r"OR-tools: pip install 'moelab\[optimal\]'"):
        cp_model()
