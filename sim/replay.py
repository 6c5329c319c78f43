"""Replay: the simulator given the measured duration of every task.

A measured run and its simulation issue the same tasks (one program, two clocks), so the timeline
says how long each of them took. What remains between the two makespans is what the simulator does
not know: how long workers take to start a task that could start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph
from schedules.schedule import Schedule
from schedules.timeline import COLUMNS, Timeline
from sim.engine import simulate_graph
from sim.generation import Phase, issue_phase
from sim.result import phase_frame


@dataclass(frozen=True, eq=False)
class Replay:
    """A simulation with measured durations.

    Parameters
    ----------
    timeline: when each task would have run; phases follow one another.
    phase_s: makespan of prefill and of each decode step, shape (steps + 1,).
    """

    timeline: Timeline
    phase_s: FloatArray

    @property
    def makespan_s(self) -> float:
        """Prefill and all decode steps."""
        return float(self.phase_s.sum())


def replay(measured: Timeline, schedule: Schedule, issue_s: float = 0.0) -> Replay:
    """Simulate the run of `schedule`, freshly placed, that left the timeline `measured`.

    `issue_s` is what the issuing thread needs for a task, in seconds. Routing is answered by the
    schedule's own issuer, which must have the recorded one where the schedule asks for it. Raises
    `BadInput` when the timeline is not one of this schedule's run.
    """
    steps = sorted(measured.frame["step"].unique())
    if steps != list(range(len(steps))):
        raise BadInput(f"timeline '{measured.name}' lacks steps between 0 and {steps[-1]}")
    frames, phases, offset = [], [], 0.0
    for step in steps:
        graph = issue_phase(schedule, int(step))
        rows = measured.frame[measured.frame["step"] == step]
        duration = durations(graph, rows, measured.name)
        on_host = np.array([name.startswith("host") for name in graph.streams])[graph.stream]
        run = simulate_graph(graph, duration, np.where(on_host, 0.0, issue_s))
        frames.append(phase_frame(Phase(graph, run, duration), offset))
        phases.append(run.makespan_s)
        offset += run.makespan_s
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS])
    frame["task"] = np.arange(len(frame))
    timeline = Timeline(frame, measured.streams, f"{measured.name}, simulated")
    return Replay(timeline, np.array(phases))


def durations(graph: TaskGraph, rows: pd.DataFrame, name: str) -> FloatArray:
    """Seconds of each task: streams are FIFO, so a stream's n-th row is its n-th task.

    Raises `BadInput` when the rows are not those of the graph.
    """
    found = np.zeros(len(graph))
    for number, stream in enumerate(graph.streams):
        tasks = np.flatnonzero(graph.stream == number)
        lane = rows[rows["stream"] == stream].sort_values(["start_s", "end_s", "task"])
        ops = [graph.ops[i] for i in graph.op[tasks]]
        if ops != lane["op"].tolist():
            raise BadInput(
                f"timeline '{name}' is not one of this schedule and policy: stream '{stream}' has "
                f"{len(lane)} tasks, not the {len(tasks)} that are issued{_first(ops, lane)}"
            )
        found[tasks] = (lane["end_s"] - lane["start_s"]).to_numpy()
    return found


def _first(ops: Sequence[str], lane: pd.DataFrame) -> str:
    pairs = zip(ops, lane["op"], strict=False)
    differ = next(((i, a, b) for i, (a, b) in enumerate(pairs) if a != b), None)
    return "" if differ is None else f"; task {differ[0]} is '{differ[2]}', not '{differ[1]}'"
