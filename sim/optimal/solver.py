"""The solver, CP-SAT of OR-tools: how it is asked, and how its answers are read."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, IntArray

FINEST = 1e-5
"""Of the longest task: durations are multiples of at most this (shorter where a task is)."""

HOW = "pip install 'moelab[optimal]'"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how the solver searches.

    Parameters
    ----------
    seconds: of wall time. workers: threads. seed: of its random choices.
    """

    seconds: float = 60.0
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise BadInput(f"a time limit of {self.seconds} s; it must be above 0 and finite")


@dataclass(frozen=True, slots=True)
class Grid:
    """Durations as whole multiples of a unit, rounded down, so that a bound stays a bound."""

    unit_s: float
    units: IntArray

    def seconds(self, units: float) -> float:
        """Units as seconds."""
        return units * self.unit_s


def grid_of(duration_s: FloatArray) -> Grid:
    """Whole units for these durations; those above 0 have at least one."""
    above = duration_s[duration_s > 0]
    if not len(above):
        raise BadInput("none of the tasks takes time: every order is as good")
    unit_s = min(FINEST * float(above.max()), float(above.min()))
    units = np.floor(duration_s / unit_s * (1 + 1e-12)).astype(np.int64)
    return Grid(unit_s, units)


def cp_model() -> Any:
    """The modelling module of OR-tools. Raises `BadInput` when it is not installed."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise BadInput(f"the best order needs the solver OR-tools: {HOW}") from None
    return cp_model


def solver(limits: Limits) -> Any:
    """A solver with these limits."""
    made = cp_model().CpSolver()
    made.parameters.max_time_in_seconds = limits.seconds
    made.parameters.num_workers = limits.workers
    made.parameters.random_seed = limits.seed
    made.parameters.use_dynamic_precedence_in_disjunctive = True  # tenfold faster proofs
    made.parameters.use_overload_checker_in_cumulative = True
    return made
