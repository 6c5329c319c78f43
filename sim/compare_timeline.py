"""A batch on two clocks as timelines whose phases begin at the same moments."""

import numpy as np
import pandas as pd

from schedules.timeline import COLUMNS, Timeline
from sim.compare_run import BatchClocks, Clocks
from sim.generation import Phase
from sim.phase_frame import phase_columns
from sim.times import Run


def aligned(batch: BatchClocks) -> tuple[Timeline, Timeline]:
    """Measured and simulated; the first task of a phase starts at the same moment in both.

    The clock that is done first with a phase waits for the other. `task` counts in order of issue
    and is the same in both.
    """
    measured: list[pd.DataFrame] = []
    simulated: list[pd.DataFrame] = []
    begin_s, count = 0.0, 0
    for phase in batch.phases:
        pair = _measured(phase), _simulated(phase)
        for frames, run in zip((measured, simulated), pair, strict=True):
            frames.append(_rows(phase, run, begin_s, count))
        begin_s += max(float(run.end_s.max(initial=0.0)) for run in pair)
        count += len(phase.graph)
    streams = batch.phases[0].graph.streams
    first, second = (
        Timeline(pd.concat(frames, ignore_index=True)[list(COLUMNS)], streams, name)
        for frames, name in ((measured, "measured"), (simulated, "simulated"))
    )
    return first, second


def _measured(phase: Clocks) -> Run:
    start_s, end_s = phase.measured_start_s, phase.measured_end_s
    return Run(start_s, end_s, phase.measured_span_s, np.zeros(phase.graph.hosts))


def _simulated(phase: Clocks) -> Run:
    run = phase.simulated
    first_s = run.start_s.min(initial=np.inf)
    return Run(run.start_s - first_s, run.end_s - first_s, run.makespan_s, run.issuing_s)


def _rows(phase: Clocks, run: Run, begin_s: float, count: int) -> pd.DataFrame:
    frame = pd.DataFrame(phase_columns(Phase(phase.graph, run, phase.alone_s)))
    return frame.assign(
        task=frame["task"] + count,
        start_s=frame["start_s"] + begin_s,
        end_s=frame["end_s"] + begin_s,
    )
