"""The shortest period of tasks that repeat: modulo scheduling by constraint programming.

Task i of period k starts at `offset[i] + (turn[i] + k) period`. A stream is a circle of one period,
on which its tasks may not overlap; what lies in the places of a kind covers the circle at most as
often as there are places.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schedules.graph import FloatArray
from sim.optimal.cycle import Cycle, CyclicStay
from sim.optimal.solver import Grid, Limits, cp_model, grid_of, solver
from sim.optimal.tight import Turns, period_bounds, tightened

SPREAD = 2
"""Periods by which a task may run before or after the first task of its layer, in the search."""

LAST = 2 * SPREAD + 1
"""Periods that something may stay in its place, in the search."""


NEAR = 1e-9
"""Relative difference of two periods that is rounding."""


@dataclass(frozen=True, eq=False, slots=True)
class Repeated:
    """The best period found.

    Parameters
    ----------
    turns: when the tasks run, in seconds; None: no order better than the schedule's was found.
    period_s: of the best order. bound_s: no order has a shorter one.
    proved: no order is better, on the solver's grid. bounds_s: simple bounds.
    """

    turns: Turns | None
    period_s: float
    bound_s: float
    proved: bool
    bounds_s: Mapping[str, float]


def best_period(
    cycle: Cycle,
    start_s: FloatArray,
    period_s: float,
    others: Sequence[Turns] = (),
    limits: Limits | None = None,
) -> Repeated:
    """The order of the tasks of a period that repeats soonest.

    Parameters
    ----------
    start_s: when the tasks of one period run in the schedule's own order, shape (n,), which
        repeats after `period_s`.
    others: more orders, in seconds; the search begins at the best.

    Raises `BadInput` when the solver is not installed or no task takes time.
    """
    grid, bounds = grid_of(cycle.duration_s), period_bounds(cycle)
    exact, least = cycle.duration_s, max(bounds.values())
    known = [turns_of(start_s, period_s), *others]
    kept = [tightened(cycle, t, t.offset + exact, exact) for t in known]
    best = _shortest(kept)
    bound, proved = least, False
    if min(period_s, np.inf if best is None else best.period) > least * (1 + NEAR):
        search = _Search(cycle, grid, period_s, bounds, best)
        found, bound_units, proved = search.run(limits or Limits())
        if grid.seconds(bound_units - 1) <= (np.inf if best is None else best.period):
            bound = max(least, grid.seconds(bound_units - 1))
        if found is not None:
            kept.append(tightened(cycle, found, found.offset + grid.units, exact))
            best = _shortest(kept)
    shortest = period_s if best is None else min(best.period, period_s)
    at_bound = shortest <= bound * (1 + NEAR)
    return Repeated(best, shortest, min(bound, shortest), proved or at_bound, bounds)


def _shortest(orders: Iterable[Turns | None]) -> Turns | None:
    return min((t for t in orders if t is not None), key=lambda t: t.period, default=None)


def turns_of(start: FloatArray, period: float) -> Turns:
    """Starts as offsets within a period and whole turns; the first task begins one."""
    since = start - start[0]
    turn = np.floor(since / period + 1e-9)
    offset = np.maximum(0.0, since - turn * period)
    return Turns(period, offset, turn.astype(np.int64))


class _Search:
    """The model. `turn[0]` is SPREAD and `offset[0]` 0: a period may begin anywhere."""

    def __init__(
        self,
        cycle: Cycle,
        grid: Grid,
        longest_s: float,
        bounds: Mapping[str, float],
        hint: Turns | None,
    ) -> None:
        self.cp = cp_model()
        self.cycle, self.size = cycle, grid.units.tolist()
        self.model = model = self.cp.CpModel()
        lost = len(cycle)  # units, at most: each duration is rounded down
        least = max(max(self.size), int(max(bounds.values()) / grid.unit_s * (1 - 1e-9)) - lost)
        self.horizon = max(int(np.ceil(longest_s / grid.unit_s)) + 1, least)
        self.period = model.new_int_var(min(least, self.horizon), self.horizon, "period")
        n = len(cycle)
        self.offset = [model.new_int_var(0, self.horizon, f"offset{i}") for i in range(n)]
        self.turn = [model.new_int_var(0, 2 * SPREAD, f"turn{i}") for i in range(n)]
        model.add(self.offset[0] == 0)
        model.add(self.turn[0] == SPREAD)
        for offset in self.offset:
            model.add(offset <= self.period - 1)
        for link in cycle.links:
            self._after(link.before, link.after, link.periods)
        for stream in range(len(cycle.streams)):
            self._stream(np.flatnonzero(cycle.stream == stream).tolist())
        for kind, places in enumerate(cycle.places):
            self._places([stay for stay in cycle.stays if stay.kind == kind], places)
        self._hint(hint, grid)
        model.minimize(self.period)

    def _hint(self, order: Turns | None, grid: Grid) -> None:
        """Begin at this order, with durations in units."""
        units = grid.units.astype(np.float64)
        found = None
        if order is not None:
            found = tightened(self.cycle, order, order.offset + self.cycle.duration_s, units)
        if found is None:
            return
        hint = turns_of(found.start, found.period)
        for i in range(len(self.cycle)):
            self.model.add_hint(self.offset[i], round(float(hint.offset[i])))
            self.model.add_hint(self.turn[i], int(hint.turn[i]) + SPREAD)
        self.model.add_hint(self.period, int(np.ceil(hint.period - 1e-6)))

    def _after(self, before: int, after: int, periods: int) -> None:
        """Whole turns between the two: none, one, or more, which needs no care of the offsets."""
        model, size = self.model, self.size[before]
        turns = self.turn[after] + periods - self.turn[before]
        one, two = model.new_bool_var(""), model.new_bool_var("")
        model.add(turns >= 0)
        model.add(turns >= 1).only_enforce_if(one)
        model.add(turns >= 2).only_enforce_if(two)
        model.add_implication(two, one)
        start, end = self.offset[after], self.offset[before] + size
        model.add(start >= end).only_enforce_if(~one)
        model.add(start + self.period >= end).only_enforce_if(~two)

    def _stream(self, tasks: list[int]) -> None:
        spans = []
        for i in tasks:
            if self.size[i]:
                again = self.model.new_int_var(0, 2 * self.horizon, "")
                self.model.add(again == self.offset[i] + self.period)
                for start in (self.offset[i], again):
                    spans.append(self.model.new_fixed_size_interval_var(start, self.size[i], ""))
        self.model.add_no_overlap(spans)

    def _places(self, stays: list[CyclicStay], places: int) -> None:
        """Each stay covers the circle from its start on, and again in the periods that follow."""
        if not stays:
            return
        spans = [span for stay in stays for span in self._stay(stay)]
        if places == 1:
            self.model.add_no_overlap(spans)
        else:
            self.model.add_cumulative(spans, [1] * len(spans), places)

    def _stay(self, stay: CyclicStay) -> list[Any]:
        model = self.model
        until = [model.new_int_var(0, self.horizon, "") for _ in range(LAST + 1)]
        past = [model.new_bool_var("") for _ in range(LAST + 1)]  # lasts beyond this period
        model.add(past[LAST] == 0)
        for end, beyond in zip(until, past, strict=True):
            model.add(end <= self.period)
            model.add(end == self.period).only_enforce_if(beyond)
        for task, periods in stay.uses:
            self._use(stay.opens, task, periods, until, past)
        spans = []
        for number, end in enumerate(until):
            start: Any = self.offset[stay.opens] if number == 0 else 0
            length = model.new_int_var(0, self.horizon, "")
            spans.append(model.new_interval_var(start, length, end, ""))
        return spans

    def _use(self, opens: int, task: int, periods: int, until: list[Any], past: list[Any]) -> None:
        """The stay lasts until the task ends: `by[k]` says that it runs at most k turns later."""
        model = self.model
        turns = self.turn[task] + periods - self.turn[opens]
        end = self.offset[task] + self.size[task]
        by: list[Any] = [model.new_bool_var("") for _ in until]
        model.add(by[-1] == 1)
        for k, at_most in enumerate(by):
            model.add(turns <= k).only_enforce_if(at_most)
            model.add_bool_or(at_most, past[k])
            here = [at_most] if k == 0 else [at_most, ~by[k - 1]]
            model.add(until[k] >= end).only_enforce_if([*here, ~past[k]])
            if k + 1 < len(until):
                model.add(until[k + 1] >= end - self.period).only_enforce_if(here)

    def run(self, limits: Limits) -> tuple[Turns | None, float, bool]:
        """An order (offsets in units), a bound on the period in units, whether it is the best."""
        search = solver(limits)
        status = search.solve(self.model)
        proved = status == self.cp.OPTIMAL
        if status not in (self.cp.OPTIMAL, self.cp.FEASIBLE):
            return None, search.best_objective_bound, False
        offset = np.array([search.value(x) for x in self.offset], dtype=np.float64)
        turn = np.array([search.value(x) for x in self.turn], dtype=np.int64)
        found = Turns(float(search.value(self.period)), offset, turn)
        return found, search.best_objective_bound, proved
