"""The engines: the compiled one, and the reference that it is checked against."""

from typing import Protocol

import numpy as np

from schedules.errors import BadInput, suggest
from schedules.graph import FloatArray, TaskGraph
from sim import interpreted
from sim.decoding import Steps
from sim.sharing import Sharing
from sim.times import Run, busy_s

ENGINES = ("compiled", "simpy")
LITTLE = interpreted.Allowance(interpreted.TASKS)
"""What this process may still simulate before it loads the kernels."""


class Engine(Protocol):
    """Runs task graphs against a virtual clock; see `sim.engine` for what that means."""

    def run(
        self,
        graph: TaskGraph,
        duration_s: FloatArray,
        issue_s: FloatArray,
        sync_s: float,
        sharing: Sharing | None = None,
    ) -> Run:
        """When each task of a graph runs."""

    def totals(self, steps: Steps, sync_s: float) -> FloatArray:
        """Makespan and busy seconds of every stream, by step: shape (steps, 1 + streams)."""


class Compiled:
    """One pass over arrays (`sim.compiled`).

    The first tasks of a process are left to `sim.interpreted`, which gives the same bits: a process
    with little to do need not load the kernels.
    """

    def run(
        self,
        graph: TaskGraph,
        duration_s: FloatArray,
        issue_s: FloatArray,
        sync_s: float,
        sharing: Sharing | None = None,
    ) -> Run:
        if sharing is None and LITTLE.take(len(graph)) and interpreted.can_interpret(graph):
            return interpreted.simulate_graph(graph, duration_s, issue_s, sync_s)
        from sim.compiled import simulate_graph

        return simulate_graph(graph, duration_s, issue_s, sync_s, sharing)

    def totals(self, steps: Steps, sync_s: float) -> FloatArray:
        cost = interpreted.steps_cost(steps)
        if steps.light is None and LITTLE.take(cost) and interpreted.can_interpret(steps.graph):
            return interpreted.step_totals(steps, sync_s)
        from sim.compiled import step_totals

        return step_totals(steps, sync_s)


class Reference:
    """Events and processes (`sim.engine`, on SimPy)."""

    def run(
        self,
        graph: TaskGraph,
        duration_s: FloatArray,
        issue_s: FloatArray,
        sync_s: float,
        sharing: Sharing | None = None,
    ) -> Run:
        from sim.engine import simulate_graph

        return simulate_graph(graph, duration_s, issue_s, sync_s, sharing)

    def totals(self, steps: Steps, sync_s: float) -> FloatArray:
        rows = []
        for step in range(steps.first, steps.last + 1):
            duration_s = steps.duration_s(step)
            run = self.run(steps.graph, duration_s, steps.issue_s, sync_s, steps.sharing(step))
            rows.append([run.makespan_s, *busy_s(steps.graph, duration_s, run)])
        return np.array(rows)


def engine(name: str) -> Engine:
    """An engine by name. Raises `BadInput` with the nearest name."""
    if name == "compiled":
        return Compiled()
    if name == "simpy":
        return Reference()
    raise BadInput(f"unknown engine '{name}'{suggest(name, ENGINES)}")
