"""A whole generation: prefill and all decode steps, simulated exactly without issuing each step.

Every schedule ends prefill and each decode step with a barrier, because the host reads the sampled
tokens. So the makespan is a sum over steps. The steps issue the same tasks; only the context grows,
by one token per sequence and step. A task's amounts of work are affine in the step number s, the
roofline is a maximum of affine functions, and the engine combines durations by maximum and sum: the
makespan f(s) of a step is convex and piecewise linear, and so is each stream's busy time. If such a
function meets its chord at one point between two steps, it equals the chord on all of them.
`convex_series` uses this: it simulates a few steps and proves the others.

Where a schedule says that its steps are not alike, or the sampled ones differ in more than amounts
of work, every step is issued and simulated.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from schedules.graph import FloatArray, RecordingIssuer, TaskGraph
from schedules.schedule import Schedule
from sim.cost import CostModel, price
from sim.engine import Run, simulate_graph

TOLERANCE = 1e-12  # relative; a chord met this closely is met up to rounding


@dataclass(frozen=True, eq=False, slots=True)
class Phase:
    """One simulated phase: prefill, or one decode step."""

    graph: TaskGraph
    run: Run
    duration_s: FloatArray

    @property
    def totals(self) -> FloatArray:
        """Makespan, then busy time of every stream, the host's issuing included; seconds."""
        streams = self.graph.streams
        busy = np.bincount(self.graph.stream, weights=self.duration_s, minlength=len(streams))
        hosts = [i for i, name in enumerate(streams) if name.startswith("host")]
        busy[hosts] = busy[hosts] + self.run.issuing_s
        return np.array([self.run.makespan_s, *busy])


def issue_phase(schedule: Schedule, step: int) -> TaskGraph:
    """Issue one phase: prefill (`step` 0) or decode step `step` (1..)."""
    issuer = schedule.node.issuer
    assert isinstance(issuer, RecordingIssuer)
    if step == 0:
        schedule.run_prefill()
    else:
        schedule.run_decode_step(step)
    return issuer.take()


def simulate_phase(schedule: Schedule, step: int, cost: CostModel) -> Phase:
    """Issue and simulate one phase."""
    graph = issue_phase(schedule, step)
    duration_s, issue_s = price(graph, cost)
    return Phase(graph, simulate_graph(graph, duration_s, issue_s, cost.sync_s), duration_s)


class Generation:
    """All phases of one schedule on one node.

    Parameters
    ----------
    schedule: with all its memory allocated.
    cost: prices the tasks.
    """

    def __init__(self, schedule: Schedule, cost: CostModel) -> None:
        self.schedule = schedule
        self.cost = cost
        self.steps = schedule.n_decode_steps(
            schedule.node.model.is_encoder_decoder, schedule.node.gen_len
        )
        self.prefill = simulate_phase(schedule, 0, cost)
        self._kept: dict[int, Phase] = {}  # of a schedule whose steps depend on those before
        if not schedule.steps_alike:
            self._kept = {s: simulate_phase(schedule, s, cost) for s in range(1, self.steps + 1)}
        self.first = self.step(1) if self.steps else None
        self.alike = schedule.steps_alike
        self.decode = convex_series(self._totals, self.steps) if self.alike else np.zeros((0, 0))
        if not self.alike:  # declared, or found while sampling
            self.decode = np.array([self._totals(s) for s in range(1, self.steps + 1)])

    def step(self, step: int) -> Phase:
        """Decode step `step` (1..)."""
        return self._kept.get(step) or simulate_phase(self.schedule, step, self.cost)

    def _totals(self, step: int) -> FloatArray:
        if step == 1 and self.first is not None:
            return self.first.totals
        phase = self.step(step)
        if self.first is not None and not phase.graph.same_structure(self.first.graph):
            self.alike = False
        return phase.totals


def convex_series(f: Callable[[int], FloatArray], n: int) -> FloatArray:
    """All of f(1), ..., f(n) for a vector of convex functions, with few evaluations.

    Returns shape (n, k). Between two evaluated points the values are those of the chord, once f has
    met it at an interior point; a convex function that meets its chord inside equals it.

    >>> calls = []
    >>> def f(s):
    ...     calls.append(s)
    ...     return np.array([max(10.0, 2.0 * s)])
    >>> convex_series(f, 8)[:, 0].tolist()
    [10.0, 10.0, 10.0, 10.0, 10.0, 12.0, 14.0, 16.0]
    """
    if n == 0:
        return np.zeros((0, 0))
    known = {s: f(s) for s in sorted({1, n})}
    pieces = [(1, n)]
    while pieces:
        low, high = pieces.pop()
        if high - low < 2:
            continue
        middle = (low + high) // 2
        known[middle] = f(middle)
        chord = known[low] + (known[high] - known[low]) * ((middle - low) / (high - low))
        if np.allclose(known[middle], chord, rtol=TOLERANCE, atol=0):
            for s in range(low + 1, high):
                share = (s - low) / (high - low)
                known.setdefault(s, known[low] + (known[high] - known[low]) * share)
        else:
            pieces += [(low, middle), (middle, high)]
    return np.array([known[s] for s in range(1, n + 1)])
