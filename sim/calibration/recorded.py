"""Operations of a recorded run: what a calibration can be made from, beside micro-benchmarks."""

from collections.abc import Iterator

import numpy as np

from schedules.sample import Sample, Timed, samples_of
from schedules.schedule import Schedule
from schedules.timeline import Timeline
from sim.generation import issue_phase
from sim.replay import steps_of, times


def recorded_samples(
    measured: Timeline, schedule: Schedule, issue_s: float, where: str
) -> list[Sample]:
    """The operations of the run of `schedule`, freshly placed, that left the timeline `measured`.

    `issue_s` is what issuing a task took, `where` names the run. Raises `BadInput` when the
    timeline is not one of this schedule's run.
    """
    return samples_of(where, _tasks(measured, schedule), issue_s)


def _tasks(measured: Timeline, schedule: Schedule) -> Iterator[Timed]:
    for step, rows in steps_of(measured, schedule):
        graph = issue_phase(schedule, step)
        start_s, end_s = times(graph, rows, measured.name)
        for i in np.argsort(start_s, kind="stable").tolist():
            op, stream = graph.ops[graph.op[i]], graph.streams[graph.stream[i]]
            seconds = float(end_s[i] - start_s[i])
            yield Timed(op, stream, step, graph.works[graph.work[i]], seconds)
