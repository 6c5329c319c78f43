"""The shortest makespan of a finite set of tasks, by constraint programming."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schedules.graph import FloatArray, IntArray
from sim.compiled import simulate_graph
from sim.optimal.greedy import greedy
from sim.optimal.problem import NO_TASK, Problem, Stay, order_of, ordered
from sim.optimal.skews import skews
from sim.optimal.solver import Grid, Limits, cp_model, grid_of, solver

Times = tuple[FloatArray, FloatArray]
"""Start and end of every task."""

NEAR = 1e-9
"""Relative difference of two times that is rounding."""


@dataclass(frozen=True, eq=False, slots=True)
class Ordered:
    """The best order found.

    Parameters
    ----------
    start_s, end_s: when each task runs, shape (n,).
    makespan_s: of that order. bound_s: no order is shorter.
    proved: the solver has shown that no order is better, on its grid. bounds_s: simple bounds.
    """

    start_s: FloatArray
    end_s: FloatArray
    makespan_s: float
    bound_s: float
    proved: bool
    bounds_s: Mapping[str, float]


def best_order(
    problem: Problem, start_s: FloatArray, end_s: FloatArray, limits: Limits | None = None
) -> Ordered:
    """The order of the tasks with the least makespan.

    Parameters
    ----------
    start_s, end_s: when the tasks run in the schedule's own order, from which the search begins.

    Raises `BadInput` when the solver is not installed or no task takes time.
    """
    grid, bounds = grid_of(problem.duration_s), simple_bounds(problem)
    exact, least = problem.duration_s, max(bounds.values())
    runs = [replayed(problem, exact, start_s, end_s)]
    runs += [greedy(problem, order) for order in skews(problem)]
    best, bound, proved = _shortest(runs), least, False
    if _length(best) > least * (1 + NEAR):
        hint, _ = replayed(problem, grid.units.astype(np.float64), *best)
        found = _Search(problem, grid, hint.round().astype(np.int64)).run(limits or Limits())
        if found is not None:
            begin = found.start.astype(np.float64)
            best = _shortest([best, replayed(problem, exact, begin, begin + grid.units)])
            bound, proved = max(least, grid.seconds(found.bound)), found.proved
    makespan = _length(best)
    at_bound = makespan <= bound * (1 + NEAR)
    return Ordered(*best, makespan, min(bound, makespan), proved or at_bound, bounds)


def _length(run: Times) -> float:
    return float(run[1].max())


def _shortest(runs: Sequence[Times]) -> Times:
    return min(runs, key=_length)


def replayed(problem: Problem, duration: FloatArray, start: FloatArray, end: FloatArray) -> Times:
    """Start and end of every task with these durations, each as early as the order allows."""
    order = order_of(start)
    run = simulate_graph(ordered(problem, start, end), duration[order])
    begin, over = np.empty(len(order)), np.empty(len(order))
    begin[order], over[order] = run.start_s, run.end_s
    return begin, over


def simple_bounds(problem: Problem) -> dict[str, float]:
    """Seconds below which no order comes: the work of each stream, the longest chain of data."""
    names = problem.graph.streams
    loads = zip(names, problem.loads_s().tolist(), strict=True)
    return {name: load for name, load in loads if load} | {"data": _longest(problem)}


def _longest(problem: Problem) -> float:
    over = problem.duration_s.tolist()
    for i, j in sorted(problem.before, key=lambda pair: pair[1]):  # by issue: i < j
        over[j] = max(over[j], over[i] + problem.duration_s[j])
    return float(max(over, default=0.0))


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    start: IntArray
    bound: float
    proved: bool


class _Search:
    """The model: an interval for each task, and one for each stay in a place."""

    def __init__(self, problem: Problem, grid: Grid, hint: IntArray) -> None:
        self.cp = cp_model()
        self.problem = problem
        self.size = grid.units.tolist()
        self.horizon = int((hint + grid.units).max())
        self.model = self.cp.CpModel()
        model = self.model
        self.makespan = model.new_int_var(0, self.horizon, "makespan")
        self.start = [model.new_int_var(0, self.horizon, f"start{i}") for i in range(len(problem))]
        for i, begin in enumerate(hint.tolist()):
            model.add(self.start[i] + self.size[i] <= self.makespan)
            model.add_hint(self.start[i], begin)
        model.add_hint(self.makespan, self.horizon)
        for i, j in problem.before:
            model.add(self.start[i] + self.size[i] <= self.start[j])
        self._streams()
        for kind, places in enumerate(problem.places):
            self._places([stay for stay in problem.stays if stay.kind == kind], places)
        model.minimize(self.makespan)

    def _streams(self) -> None:
        graph = self.problem.graph
        for stream in range(len(graph.streams)):
            spans = [
                self.model.new_fixed_size_interval_var(self.start[i], self.size[i], f"task{i}")
                for i in np.flatnonzero(graph.stream == stream).tolist()
                if self.size[i]
            ]
            self._at_most(spans, graph.lanes_of(stream))

    def _places(self, stays: list[Stay], places: int) -> None:
        if len(stays) > places:
            self._at_most([self._stay(stay) for stay in stays], places)

    def _stay(self, stay: Stay) -> Any:
        model = self.model
        begin: Any = 0 if stay.opens == NO_TASK else self.start[stay.opens]
        end: Any = self.makespan
        if not stay.stays:
            end = model.new_int_var(0, self.horizon, "")
            for user in stay.users:
                model.add(self.start[user] + self.size[user] <= end)
        return model.new_interval_var(begin, model.new_int_var(0, self.horizon, ""), end, "")

    def _at_most(self, spans: list[Any], number: int) -> None:
        if number == 1:
            self.model.add_no_overlap(spans)
        elif len(spans) > number:
            self.model.add_cumulative(spans, [1] * len(spans), number)

    def run(self, limits: Limits) -> _Found | None:
        search = solver(limits)
        status = search.solve(self.model)
        if status not in (self.cp.OPTIMAL, self.cp.FEASIBLE):
            return None
        start = np.array([search.value(begin) for begin in self.start], dtype=np.int64)
        return _Found(start, search.best_objective_bound, status == self.cp.OPTIMAL)
