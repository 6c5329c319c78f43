"""A measured run and its simulation, task by task: three clocks for the same phases.

* `measured`: when the tasks ran.
* `replayed`: the simulator with the measured duration of every task and the run's own issuing time
  (`sim.replay`): what it lacks to `measured` is waiting that the simulator does not know.
* `simulated`: the simulator with the durations of a cost model: what `replayed` lacks to it is due
  to durations, of tasks and of the host.

So measured - simulated = (measured - replayed) + (replayed - simulated), exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from schedules.graph import FloatArray, TaskGraph
from schedules.schedule import Schedule
from schedules.timeline import Timeline
from sim.cost import CostModel
from sim.engines import engine
from sim.generation import Phase, issue_phase, phase_of
from sim.replay import steps_of, times
from sim.times import Run, busy_s

ENGINE = engine("compiled")


class Durations(NamedTuple):
    """What a simulation without shared channels is given: seconds of each task, of issuing each,
    both of shape (n,), and of a wait that is over."""

    task_s: FloatArray
    issue_s: FloatArray
    sync_s: float

    def run(self, graph: TaskGraph) -> Run:
        """When the tasks run."""
        return ENGINE.run(graph, self.task_s, self.issue_s, self.sync_s)


@dataclass(frozen=True, eq=False, slots=True)
class Clocks:
    """One phase (prefill or a decode step) on three clocks, tasks in order of issue.

    Parameters
    ----------
    measured_start_s, measured_end_s: shape (n,), from the first start of the phase.
    replayed: the simulation with what `own` holds: measured durations.
    simulated: with the cost model's; `alone_s` are its durations without contention, shape (n,),
        and `priced` its durations with it, and its issuing.
    """

    step: int
    graph: TaskGraph
    measured_start_s: FloatArray
    measured_end_s: FloatArray
    own: Durations
    replayed: Run
    priced: Durations
    simulated: Run
    alone_s: FloatArray

    @property
    def measured_span_s(self) -> float:
        """From the first start to the last end."""
        return float(self.measured_end_s.max(initial=0.0))

    @property
    def busy_s(self) -> tuple[FloatArray, FloatArray]:
        """Seconds of work of every stream, the host's issuing included: as run, as simulated."""
        return (
            busy_s(self.graph, self.own.task_s, self.replayed),
            busy_s(self.graph, self.priced.task_s, self.simulated),
        )


@dataclass(frozen=True, eq=False)
class BatchClocks:
    """A batch of a run: its phases, prefill first, and what prefill and decode took, seconds.

    `prefill_steps` of the phases belong to the measured prefill: two where the model has an
    encoder, whose first token needs a decode step.
    """

    phases: Sequence[Clocks]
    measured_s: tuple[float, float]
    prefill_steps: int = 1

    def parts(self) -> tuple[Sequence[Clocks], Sequence[Clocks]]:
        """The phases of prefill and those of decode."""
        return self.phases[: self.prefill_steps], self.phases[self.prefill_steps :]


def clocks_of(
    measured: Timeline,
    schedule: Schedule,
    cost: CostModel,
    measured_s: tuple[float, float],
    issue_s: float = 0.0,
) -> BatchClocks:
    """Put the run of `schedule`, freshly placed, that left the timeline `measured` on all clocks.

    Parameters
    ----------
    measured_s: seconds that prefill and all decode steps took.
    issue_s: what the issuing thread of the run needed for a task, in seconds.

    Routing is answered as in `sim.replay.replay`. Raises `BadInput` when the timeline is not one of
    this schedule's run, or the cost model has no price for what it did.
    """
    phases = [
        _clocks(step, issue_phase(schedule, step), rows, cost, issue_s, measured.name)
        for step, rows in steps_of(measured, schedule)
    ]
    return BatchClocks(phases, measured_s, schedule.first_token_phases)


def _clocks(
    step: int, graph: TaskGraph, rows: pd.DataFrame, cost: CostModel, issue_s: float, name: str
) -> Clocks:
    start_s, end_s = times(graph, rows, name)
    origin_s = start_s.min(initial=np.inf)
    own = Durations(end_s - start_s, np.full(len(graph), issue_s), 0.0)
    phase = phase_of(graph, cost, ENGINE)
    return Clocks(
        step,
        graph,
        start_s - origin_s,
        end_s - origin_s,
        own,
        own.run(graph),
        _priced(phase, cost),
        phase.run,
        phase.duration_s,
    )


def _priced(phase: Phase, cost: CostModel) -> Durations:
    """Durations with contention; with them, and nothing shared, the tasks run at the same times."""
    run, graph = phase.run, phase.graph
    issue = np.array([cost.issue_seconds(work) for work in graph.works], dtype=np.float64)
    seconds = run.end_s - run.start_s if cost.channels else phase.duration_s
    return Durations(seconds, issue[graph.work], cost.sync_s)
