"""What is added up over the phases of a generation, by name: critical path, slack, idle time.

Also what tasks lose to the channels that they share.
"""

from collections.abc import Mapping

import numpy as np

from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.causes import Times, by_op, op_names
from sim.events import TASK, Events
from sim.explanation import IdlePart, LostPart, OnPath, Slack
from sim.idle import Idle, add_idle, named, nothing_idle
from sim.lost import Lost

Name = tuple[str, str]
"""Op and stream."""


class PathTotals:
    """The critical path of all phases."""

    def __init__(self) -> None:
        self.parts: dict[Name, FloatArray] = {}  # tasks and seconds

    def add(self, times: Times, path: IntArray) -> None:
        """Add that of one phase."""
        found = by_op(times, path)
        names = op_names(times.events.graph)
        for place in np.flatnonzero(found[0]).tolist():
            before = self.parts.get(names[place], np.zeros(2))
            self.parts[names[place]] = before + found[:, place]

    @property
    def makespan_s(self) -> float:
        """The length of the path."""
        return float(sum(seconds for _, seconds in self.parts.values()))

    def rows(self) -> tuple[OnPath, ...]:
        """The largest first."""
        whole = self.makespan_s
        parts = [
            OnPath(*name, int(count), float(seconds), float(seconds) / whole)
            for name, (count, seconds) in self.parts.items()
        ]
        return tuple(sorted(parts, key=lambda part: -part.critical_s))


class SlackTotals:
    """The slack of all tasks."""

    def __init__(self) -> None:
        self.parts: dict[Name, list[tuple[float, ...]]] = {}  # of each phase

    def add(self, groups: Mapping[Name, IntArray], times: Times, path: IntArray) -> None:
        """Add that of one phase, whose tasks are grouped by name."""
        slack = times.slack_s()
        critical = np.zeros(len(slack), dtype=bool)
        critical[path] = True
        for name, chosen in groups.items():
            own = slack[chosen]
            row = len(own), critical[chosen].sum(), own.min(), own.sum(), own.max()
            self.parts.setdefault(name, []).append(row)

    def rows(self, order: Mapping[str, int]) -> tuple[Slack, ...]:
        """In the order of the streams."""
        names = sorted(self.parts, key=lambda name: (order[name[1]], name[0]))
        return tuple(_slack(name, np.array(self.parts[name]).T) for name in names)


class IdleTotals:
    """The idle time of all streams."""

    def __init__(self) -> None:
        self.parts: Idle = {}
        self._graph: TaskGraph | None = None
        self._found = np.zeros(0)

    def add(self, times: Times) -> None:
        """Add that of one phase."""
        if times.events.graph is not self._graph:
            self._name()
            self._graph = times.events.graph
            self._found = nothing_idle(self._graph)
        add_idle(times, self._found)

    def rows(self, order: Mapping[str, int], makespan_s: float) -> tuple[IdlePart, ...]:
        """In the order of the streams, the largest causes first."""
        self._name()
        parts = [IdlePart(*key, s, s / makespan_s) for key, s in self.parts.items()]
        return tuple(sorted(parts, key=lambda part: (order[part.stream], -part.idle_s)))

    def _name(self) -> None:
        """Bring what was found in phases of one graph under its names."""
        if self._graph is not None:
            for key, seconds in named(self._graph, self._found).items():
                self.parts[key] = self.parts.get(key, 0.0) + seconds
            self._graph = None


class LostTotals:
    """What the tasks of all phases lose to channels."""

    def __init__(self) -> None:
        self.parts: dict[tuple[str, str, str], FloatArray] = {}  # tasks, seconds, of them critical

    def add(self, times: Times, path: IntArray, lost: Lost) -> None:
        """Add that of one phase."""
        events = times.events
        critical = np.zeros(len(events.graph), dtype=bool)
        critical[events.item[path[events.kind[path] == TASK]]] = True
        streams = len(events.graph.streams)
        code = events.graph.op * streams + events.graph.stream
        for place, channel in enumerate(lost.names):
            seconds = lost.seconds[:, place]
            columns = [np.bincount(code, w) for w in (seconds > 0, seconds, seconds * critical)]
            for found in np.flatnonzero(columns[0]).tolist():
                op, stream = divmod(found, streams)
                name = channel, events.graph.ops[op], events.graph.streams[stream]
                before = self.parts.get(name, np.zeros(3))
                self.parts[name] = before + np.array([column[found] for column in columns])

    def rows(self, makespan_s: float) -> tuple[LostPart, ...]:
        """By the seconds on the critical path, then all, the largest first."""
        parts = [
            LostPart(*name, int(tasks), float(lost_s), float(own), float(own) / makespan_s)
            for name, (tasks, lost_s, own) in self.parts.items()
        ]
        return tuple(sorted(parts, key=lambda part: (-part.critical_s, -part.lost_s)))


def by_name(events: Events) -> dict[Name, IntArray]:
    """The events of the tasks of each op on each stream."""
    graph = events.graph
    found = {}
    for op, stream in np.unique(np.array([graph.op, graph.stream]), axis=1).T.tolist():
        chosen = (graph.op == op) & (graph.stream == stream)
        found[graph.ops[op], graph.streams[stream]] = events.of_task[chosen]
    return found


def _slack(name: Name, columns: FloatArray) -> Slack:
    count, critical, least, total, most = columns
    tasks = int(count.sum())
    low, high = float(least.min()), float(most.max())
    mean_s = min(max(low, float(total.sum()) / tasks), high)  # rounding aside
    return Slack(*name, tasks, int(critical.sum()), low, mean_s, high)
