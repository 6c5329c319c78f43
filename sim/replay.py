"""Replay: the simulator given the measured duration of every task.

A measured run and its simulation issue the same tasks (one program, two clocks), so the timeline
says how long each of them took. What remains between the two makespans is what the simulator does
not know: how long a task that could start waits for its worker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from schedules.batching import MicroBatch
from schedules.errors import BadInput
from schedules.graph import FloatArray, RecordingIssuer, RoutingTrace, TaskGraph
from schedules.issuer import Issuer
from schedules.placing import Capacities, OpenIssuer
from schedules.schedule import Schedule
from schedules.task import Task
from schedules.timeline import COLUMNS, Timeline
from sim.compiled import simulate_graph
from sim.generation import Phase, issue_phase
from sim.phase_frame import phase_frame

PLACE = ("op", "layer", "micro_batch")
"""What tells the tasks of a stream apart."""


@dataclass(frozen=True, eq=False)
class Replay:
    """A simulation with measured durations.

    Parameters
    ----------
    timeline: when each task would have run; phases follow one another.
    phase_s: makespan of prefill and of each decode step, shape (steps + 1,).
    busy_s: seconds of work by stream, the host's issuing included.
    prefill_phases: those that a run measures as prefill: two where the model has an encoder, whose
        first token needs a decode step.
    """

    timeline: Timeline
    phase_s: FloatArray
    busy_s: Mapping[str, float]
    prefill_phases: int = 1

    @property
    def prefill_s(self) -> float:
        """Makespan up to the first token."""
        return float(self.phase_s[: self.prefill_phases].sum())

    @property
    def decode_s(self) -> float:
        """All decode steps after it."""
        return float(self.phase_s[self.prefill_phases :].sum())

    @property
    def makespan_s(self) -> float:
        """Prefill and all decode steps."""
        return self.prefill_s + self.decode_s


def replay(measured: Timeline, schedule: Schedule, issue_s: float = 0.0) -> Replay:
    """Simulate the run of `schedule`, freshly placed, that left the timeline `measured`.

    `issue_s` is what the issuing thread needs for a task, in seconds. Routing is answered by the
    schedule's own issuer, which must have the recorded one where the schedule asks for it
    (`recording`). Raises `BadInput` when the timeline is not one of this schedule's run.
    """
    phases = [
        _phase(schedule, step, rows, measured.name, issue_s)
        for step, rows in steps_of(measured, schedule)
    ]
    phase_s = np.array([phase.run.makespan_s for phase in phases])
    starts = np.concatenate([[0.0], np.cumsum(phase_s)])
    frame = pd.concat(
        [phase_frame(phase, start) for phase, start in zip(phases, starts.tolist(), strict=False)],
        ignore_index=True,
    )
    frame["task"] = np.arange(len(frame))
    streams = phases[0].graph.streams
    busy = sum(phase.totals[1:] for phase in phases)
    return Replay(
        Timeline(frame[list(COLUMNS)], streams, f"{measured.name}, simulated"),
        phase_s,
        dict(zip(streams, np.asarray(busy).tolist(), strict=True)),
        schedule.first_token_phases,
    )


def recording(trace: RoutingTrace | None = None) -> OpenIssuer:
    """How a schedule is placed for a replay: `trace` answers what it asks its gates."""

    def open_issuer(
        streams: tuple[str, ...],
        capacities: Capacities,
        hosts: int,
        batches: tuple[MicroBatch, ...],
    ) -> Issuer:
        return RecordingIssuer(streams, capacities, hosts, trace)

    return open_issuer


def recorded_routing(rows: pd.DataFrame) -> RoutingTrace:
    """Answers a gate with what it has chosen in a run.

    `rows` are those of one batch, in the order in which they were recorded: `step`, `layer`,
    `micro_batch`, and a column `expert_...` for each expert that a token takes. The trace raises
    `BadInput` for a gate of which there are none.
    """
    ids = rows.filter(regex="^expert_").to_numpy(np.int64)
    places = rows.groupby(["step", "layer", "micro_batch"]).indices

    def trace(gate: Task) -> NDArray[np.int64]:
        found = places.get((gate.step, gate.layer, gate.micro_batch))
        if found is None:
            raise BadInput(
                f"the recorded routing lacks step {gate.step}, layer {gate.layer}, micro-batch "
                f"{gate.micro_batch}"
            )
        return ids[found]

    return trace


def durations(graph: TaskGraph, rows: pd.DataFrame, name: str) -> FloatArray:
    """Seconds of each task: streams are FIFO, so a stream's n-th row is its n-th task.

    Raises `BadInput` when the rows are not those of the graph.
    """
    start_s, end_s = times(graph, rows, name)
    return end_s - start_s


def times(graph: TaskGraph, rows: pd.DataFrame, name: str) -> tuple[FloatArray, FloatArray]:
    """Start and end of each task, in seconds, as `rows` have them; see `durations`."""
    start_s, end_s = np.zeros(len(graph)), np.zeros(len(graph))
    lanes = {str(stream): lane for stream, lane in rows.groupby("stream")}
    foreign = sorted(set(lanes) - set(graph.streams))
    if foreign:
        raise BadInput(f"{_not_of_this(name)}: it has tasks on the stream '{foreign[0]}'")
    for number, stream in enumerate(graph.streams):
        tasks = np.flatnonzero(graph.stream == number)
        lane = lanes.get(stream, rows[:0]).sort_values(["start_s", "end_s", "task"])
        issued = [
            (graph.ops[graph.op[i]], int(graph.layer[i]), int(graph.micro_batch[i])) for i in tasks
        ]
        ran = list(lane[list(PLACE)].itertuples(index=False, name=None))
        if issued != ran:
            raise BadInput(
                f"{_not_of_this(name)}: stream '{stream}' has {len(ran)} tasks in step "
                f"{_step(graph)}, {len(issued)} are issued{_first(issued, ran)}"
            )
        start_s[tasks], end_s[tasks] = lane["start_s"], lane["end_s"]
    return start_s, end_s


def steps_of(measured: Timeline, schedule: Schedule) -> list[tuple[int, pd.DataFrame]]:
    """Prefill and the decode steps, with their rows. Raises `BadInput` where there are others."""
    frame = measured.frame
    parts = {int(s): frame[frame["step"] == s] for s in frame["step"].unique()}
    node = schedule.node
    most = schedule.n_decode_steps(node.model.is_encoder_decoder, node.gen_len)
    if not parts:
        raise BadInput(f"timeline '{measured.name}' has no tasks: nothing to replay")
    missing = [step for step in range(max(parts) + 1) if step not in parts]
    if missing:
        raise BadInput(f"timeline '{measured.name}' lacks step {missing[0]} of {max(parts)}")
    if max(parts) > most:
        raise BadInput(
            f"{_not_of_this(measured.name)}: it has {max(parts)} decode steps, the run {most}"
        )
    return sorted(parts.items())


def _phase(schedule: Schedule, step: int, rows: pd.DataFrame, name: str, issue_s: float) -> Phase:
    graph = issue_phase(schedule, step)
    duration_s = durations(graph, rows, name)
    run = simulate_graph(graph, duration_s, np.full(len(graph), issue_s))
    return Phase(graph, run, duration_s)


def _not_of_this(name: str) -> str:
    return f"timeline '{name}' is not one of this schedule, policy and model"


def _step(graph: TaskGraph) -> int:
    return int(graph.step[0]) if len(graph) else 0


def _first(issued: Sequence[tuple[str, int, int]], ran: Sequence[tuple[str, int, int]]) -> str:
    """The first task that differs, in words."""
    for i, (a, b) in enumerate(zip(issued, ran, strict=False)):
        if a != b:
            return f"; task {i} is {_words(b)}, not {_words(a)}"
    return ""


def _words(task: tuple[str, int, int]) -> str:
    op, layer, micro_batch = task
    return f"'{op}' of layer {layer}, micro-batch {micro_batch}"
