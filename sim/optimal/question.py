"""The best order of a schedule's tasks: the front door."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule, find_schedule
from schedules.timeline import Timeline
from sim.cost import Roofline
from sim.generation import Phase
from sim.optimal.changes import cyclic_changes, window_changes
from sim.optimal.cycle import Cycle, cycle, recorded_layers, unrolled
from sim.optimal.greedy import greedy
from sim.optimal.makespan import best_order
from sim.optimal.optimum import Optimum
from sim.optimal.period import best_period, turns_of
from sim.optimal.problem import window
from sim.optimal.recorded import Recorded, cut, recorded
from sim.optimal.skews import skews
from sim.optimal.solver import Limits
from sim.optimal.tight import Turns
from sim.phase_frame import phase_frame
from sim.question import Question
from sim.scenario import Scenario
from sim.search import best_policy
from sim.times import Run

WARM = 6
"""Layers after which a step has settled; a test holds it for the built-in schedules."""

DRAWN = 3
"""Periods in a timeline."""

STEADY = 1e-6
"""Relative difference of successive periods of a step that has settled."""


def optimal(
    schedule: str,
    asked: Question,
    layers: int | None = None,
    micro_batches: int | None = None,
    periodic: bool = False,
    limits: Limits | None = None,
) -> Optimum:
    """The best order of the tasks of a schedule's decode step in mid-generation.

    Parameters
    ----------
    schedule: name of a schedule.
    asked: on which model, machine and workload; the policy is searched for the whole model.
    layers: of the step (2 when left out), or of the period (1).
    micro_batches: of the batch only so many, of `micro_batch` sequences each; None: all.
    periodic: the period of the steady state, not the makespan of a step.
    limits: of the solver.

    Raises `BadInput` for what is unknown or impossible, `Infeasible` for what does not fit.
    """
    kind = find_schedule(schedule)
    layers = layers if layers is not None else 1 if periodic else 2
    if layers < 1:
        raise BadInput(f"{layers} layers were asked for; it must be 1 or more")
    whole = asked.scenario()
    if periodic:
        _check_repeats(whole, kind)
    found = _policy(whole, kind, asked.given())
    count = max(recorded_layers(layers), WARM + (DRAWN + 2) * layers) if periodic else layers
    scenario, found = cut(whole, kind, found, count, micro_batches)
    step = recorded(scenario, kind, found)
    search = _period if periodic else _makespan
    began = time.perf_counter()
    values = search(step, layers, limits or Limits(), schedule)
    took = time.perf_counter() - began
    return Optimum(scenario, found, schedule, layers=layers, step=step.step, solve_s=took, **values)


def _check_repeats(scenario: Scenario, kind: type[Schedule]) -> None:
    """Raises `BadInput` where no layer repeats on all GPUs."""
    gpus = scenario.gpus_for(kind)
    if gpus > 1 and kind.multi_gpu == "pipeline":
        raise BadInput(
            f"the layers of '{kind.name}' are spread over {gpus} GPUs, each with its own, so no "
            "layer repeats on all of them; ask for the makespan of a window (without --periodic), "
            "or for one GPU (--gpus 1)"
        )


def _policy(scenario: Scenario, kind: type[Schedule], given: Mapping[str, Any]) -> Policy:
    if {"N", "mu"} <= given.keys():
        return make_policy(given)
    return best_policy(scenario, kind, lambda n: Roofline(scenario.hardware, n), given)


def _makespan(step: Recorded, layers: int, limits: Limits, name: str) -> dict[str, Any]:
    problem = window(step.graph, step.duration_s, step.flow, step.first)
    run = step.run
    found = best_order(problem, run.start_s, run.end_s, limits)
    timelines = (
        _timeline(step.graph, step.duration_s, run.start_s, f"{name}, its own order"),
        _timeline(step.graph, step.duration_s, found.start_s, f"{name}, the best order found"),
    )
    best = min(found.makespan_s, run.makespan_s)
    return {
        "form": "makespan",
        "tasks": len(problem),
        "schedule_s": run.makespan_s,
        "issued_s": step.issued_s,
        "best_s": best,
        "bound_s": min(found.bound_s, best),
        "bounds_s": found.bounds_s,
        "status": "optimal" if found.proved else "bounded",
        "changes": tuple(window_changes(step.graph, run.start_s, found.start_s)),
        "timelines": timelines,
    }


def _period(step: Recorded, layers: int, limits: Limits, name: str) -> dict[str, Any]:
    repeated = cycle(step.graph, step.duration_s, step.flow, step.first, layers)
    start_s, period_s = settled(step, repeated)
    found = best_period(repeated, start_s, period_s, guesses(repeated, step.graph), limits)
    own = turns_of(start_s, period_s)
    better = own if found.turns is None or found.period_s >= period_s else found.turns
    timelines = (
        _tiled(repeated, step.graph, own, f"{name}, its own order"),
        _tiled(repeated, step.graph, better, f"{name}, the best order found"),
    )
    return {
        "form": "period",
        "tasks": len(repeated),
        "schedule_s": period_s,
        "issued_s": None,
        "best_s": found.period_s,
        "bound_s": found.bound_s,
        "bounds_s": found.bounds_s,
        "status": "optimal" if found.proved else "bounded",
        "changes": tuple(cyclic_changes(repeated, own, better)),
        "timelines": timelines,
    }


def settled(step: Recorded, repeated: Cycle) -> tuple[FloatArray, float]:
    """Starts of a period's tasks when the step has settled, and the period.

    Raises `BadInput` where successive periods of the schedule differ.
    """
    starts = [repeated.starts_of(step.run.start_s, late) for late in (1, 2)]
    shifts = starts[1] - starts[0]
    period = float(shifts.mean())
    if np.ptp(shifts) > STEADY * period:
        raise BadInput(
            f"the schedule's own order does not repeat every {repeated.layers} "
            f"layer{'s' if repeated.layers > 1 else ''} (from {shifts.min():.4g} s to "
            f"{shifts.max():.4g} s); try another number of layers"
        )
    return starts[1], period


def guesses(repeated: Cycle, graph: TaskGraph, periods: int = 8) -> list[Turns]:
    """Good orders that cost little, by `sim.optimal.greedy`."""
    problem, number = unrolled(repeated, graph, periods)
    found = []
    for order in skews(problem):
        start, _ = greedy(problem, order)
        middle = periods // 2
        period = float(start[number[middle + 1, 0]] - start[number[middle, 0]])
        if period > 0:
            found.append(turns_of(start[number[middle]], period))
    return found


def _tiled(repeated: Cycle, graph: TaskGraph, turns: Turns, name: str) -> Timeline:
    """Some periods of an order, from 0 on."""
    problem, number = unrolled(repeated, graph, DRAWN)
    start = np.empty(len(problem))
    for period in range(DRAWN):
        start[number[period]] = turns.start + period * turns.period
    return _timeline(problem.graph, problem.duration_s, start - start.min(), name)


def _timeline(graph: TaskGraph, duration_s: FloatArray, start: FloatArray, name: str) -> Timeline:
    end = start + duration_s
    run = Run(start, end, float(end.max(initial=0.0)), np.zeros(graph.hosts))
    return Timeline(phase_frame(Phase(graph, run, duration_s)), graph.streams, name)
