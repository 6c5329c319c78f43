"""What `sim.explain` says of a generation."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from schedules.errors import BadInput, suggest
from schedules.graph import TaskGraph
from schedules.timeline import Timeline
from sim.bounds import Bound
from sim.causes import causes, times_of
from sim.channels import loads
from sim.cost import price
from sim.events import events_of
from sim.generation import Phase
from sim.lost import Lost, lost
from sim.resources import Seconds
from sim.result import Result
from sim.sensitivity import PATH, Sensitivity

TABLES = ("critical_path", "idle", "bounds", "sensitivities", "phases", "slack", "sharing")
"""What `Explanation.to_pandas` can give."""


@dataclass(frozen=True, slots=True)
class OnPath:
    """What one op on one stream takes of the critical path.

    `op` is `(issuing)` or `(waits)` for what a thread does; `tasks` are on the path, `critical_s`
    is their time, `share` that of the makespan.
    """

    op: str
    stream: str
    tasks: int
    critical_s: float
    share: float


@dataclass(frozen=True, slots=True)
class IdlePart:
    """Idle seconds of a stream that have one cause; see `sim.idle` for the causes.

    `op` and `on`: the task that was waited for and its stream; None where there is none.
    """

    stream: str
    cause: str
    op: str | None
    on: str | None
    idle_s: float
    share: float


@dataclass(frozen=True, slots=True)
class PhasePart:
    """Prefill, or decode as a whole: its seconds, and the resource that most of them are due to."""

    phase: str
    makespan_s: float
    resource: str
    share: float

    @classmethod
    def of(cls, phase: str, due: Seconds) -> "PhasePart":
        """From its seconds by resource."""
        makespan_s = sum(due.values())
        resource = max(due, key=lambda name: due[name])
        return cls(phase, makespan_s, resource, due[resource] / makespan_s)


@dataclass(frozen=True, slots=True)
class Slack:
    """How much later tasks of one op on one stream could end without a longer makespan.

    `tasks` of all phases, those of them on the critical path, and least, mean and largest slack.
    """

    op: str
    stream: str
    tasks: int
    critical: int
    least_s: float
    mean_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class LostPart:
    """Seconds that tasks of one op on one stream lose as a channel is full (see `sim.lost`).

    `tasks` lose `lost_s` in all, `critical_s` of it on the critical path, which is `share` of the
    makespan.
    """

    channel: str
    op: str
    stream: str
    tasks: int
    lost_s: float
    critical_s: float
    share: float


@dataclass(frozen=True)
class Explanation:
    """Why a generation takes as long as it does.

    Parameters
    ----------
    result: what is explained.
    critical_path: by op and stream, the largest first; the seconds add up to the makespan.
    idle: by stream and cause; the seconds of a stream add up to makespan - busy - lost.
    bounds: lower bounds, the tightest first.
    sensitivities: by resource, the largest first; the elasticities add up to 1.
    phases: what binds prefill, and what decode.
    slack: by op and stream.
    sharing: what tasks lose to channels that they share, the most critical first.
    method: how the elasticities were found, see `sim.sensitivity`.
    """

    result: Result
    critical_path: tuple[OnPath, ...]
    idle: tuple[IdlePart, ...]
    bounds: tuple[Bound, ...]
    sensitivities: tuple[Sensitivity, ...]
    phases: tuple[PhasePart, ...]
    slack: tuple[Slack, ...]
    sharing: tuple[LostPart, ...] = ()
    method: str = PATH

    @property
    def bottleneck(self) -> tuple[str, ...]:
        """The resource that most time is due to, with the one that binds as well, if any."""
        first = self.sensitivities[0]
        return (first.resource,) if first.partner is None else (first.resource, first.partner)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the question, throughput and makespan, and the tables."""
        result = self.result
        return {
            "schedule": result.schedule,
            "model": result.scenario.model.name,
            "hardware": result.scenario.hardware.name,
            "workload": result.scenario.workload.name,
            "policy": result.policy.model_dump(),
            "throughput_tok_s": result.throughput_tok_s,
            "makespan_s": result.makespan_s,
            "bottleneck": list(self.bottleneck),
            "method": self.method,
            **{name: [asdict(row) for row in getattr(self, name)] for name in TABLES},
            "provenance": result.provenance,
        }

    def to_pandas(self, table: str = "sensitivities") -> pd.DataFrame:
        """One of `TABLES`. Raises `BadInput` for another name."""
        if table not in TABLES:
            raise BadInput(f"no table '{table}'{suggest(table, TABLES)}")
        return pd.DataFrame([asdict(row) for row in getattr(self, table)])

    def tasks(self, step: int) -> pd.DataFrame:
        """A row per task of a phase (0 is prefill), in order of issue.

        The columns of `sim.causes.causes` beside op, stream, layer and micro-batch; times count
        from the start of the generation. On a machine with channels also `lost_s`, the seconds lost
        to them, and `channel`, the one to which most was lost, or None.
        """
        phase = self._phase(step)
        graph, cost = phase.graph, self.result.generation.cost
        _, issue_s = price(graph, cost)
        moved = loads(graph, cost.channels, cost.moved)
        sharing = None if moved is None else moved.sharing(phase.duration_s)
        slow = lost(graph, phase.duration_s, issue_s, cost.sync_s, sharing)
        end_s = None if slow is None else slow.end_s
        found = causes(times_of(events_of(graph), phase.duration_s, issue_s, cost.sync_s, end_s))
        found[["start_s", "end_s"]] += self.result.start_s(step)
        place = {
            "task": range(len(graph)),
            "op": [graph.ops[i] for i in graph.op.tolist()],
            "stream": [graph.streams[i] for i in graph.stream.tolist()],
            "layer": graph.layer,
            "micro_batch": graph.micro_batch,
            "step": graph.step,
        }
        parts = [pd.DataFrame(place), found]
        return pd.concat([*parts, *([] if moved is None else [_lost(slow, len(graph))])], axis=1)

    def _phase(self, step: int) -> Phase:
        generation = self.result.generation
        if step not in range(generation.steps + 1):
            raise BadInput(f"there is no step {step}; steps are 0 (prefill) to {generation.steps}")
        return generation.step(step) if step else generation.prefill

    def graph(self, step: int) -> TaskGraph:
        """The tasks of a phase (0 is prefill), in order of issue."""
        return self._phase(step).graph

    def critical(self, steps: Iterable[int]) -> Timeline:
        """The tasks of some phases that are on the critical path, as a timeline."""
        chosen = sorted(set(steps))
        everything = self.result.timeline(chosen)
        marks = []
        for step in chosen:
            critical = self.tasks(step)["critical"].to_numpy()
            marks.append(pd.Series(critical[self._order(step)]))
        rows = pd.concat(marks, ignore_index=True).to_numpy()
        frame = everything.frame[rows].reset_index(drop=True)
        return Timeline(frame, everything.streams, everything.name)

    def _order(self, step: int) -> Any:
        """The tasks of a phase in the order of the rows of its timeline."""
        from sim.phase_frame import phase_frame

        return phase_frame(self._phase(step))["task"].to_numpy()


def _lost(slow: Lost | None, tasks: int) -> pd.DataFrame:
    """What each task loses, and to which channel most."""
    if slow is None:
        return pd.DataFrame({"lost_s": [0.0] * tasks, "channel": [None] * tasks})
    total, most = slow.seconds.sum(axis=1), slow.seconds.argmax(axis=1).tolist()
    named = [slow.names[i] if s > 0 else None for i, s in zip(most, total.tolist(), strict=True)]
    return pd.DataFrame({"lost_s": total, "channel": named})
