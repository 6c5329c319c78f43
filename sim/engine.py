"""The reference engine: discrete-event simulation of a task graph on SimPy.

Clear before fast: the semantics of moelab are read here.

* A **stream** runs its tasks one at a time, in the order in which they were issued.
* A task starts when its stream is free, it has been issued, and its dependencies have ended.
* An **issuing thread** (host) issues its tasks in program order, each taking `issue_s`. It runs
  ahead of the streams until a wait blocks it; a wait that is over costs `sync_s`. A task on a
  stream named `host...` runs on the issuing thread itself, which issues nothing meanwhile.
* At equal times, the stream that comes first in the graph's list of streams acts first.

Tasks depend only on tasks issued before them, so every graph ends.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import simpy

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph, Wait

Steps = Generator[simpy.Event, None, None]


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """When each task of a graph ran.

    Parameters
    ----------
    start_s, end_s: shape (n,), seconds from the start of the graph.
    makespan_s: when the last task has ended and the last issuing thread is done.
    issuing_s: seconds that each issuing thread spent issuing and synchronising, shape (hosts,).
    """

    start_s: FloatArray
    end_s: FloatArray
    makespan_s: float
    issuing_s: FloatArray


def simulate_graph(
    graph: TaskGraph,
    duration_s: FloatArray,
    issue_s: FloatArray | None = None,
    sync_s: float = 0.0,
) -> Run:
    """Run the graph against a virtual clock.

    Parameters
    ----------
    duration_s: seconds that each task takes, shape (n,).
    issue_s: seconds of the issuing thread for each task, shape (n,); none when left out.
    sync_s: seconds of the issuing thread for each wait, after what it waited for has ended.

    Raises `BadInput` when a duration is negative or not finite.
    """
    _check(graph, duration_s, "duration_s")
    if issue_s is None:
        issue_s = np.zeros(len(graph))
    _check(graph, issue_s, "issue_s")
    if not (math.isfinite(sync_s) and sync_s >= 0):
        raise BadInput(f"sync_s is {sync_s}; it must be a finite number of seconds >= 0")
    return _Engine(graph, duration_s, issue_s, sync_s).run()


def _check(graph: TaskGraph, values: FloatArray, name: str) -> None:
    if values.shape != (len(graph),):
        raise BadInput(f"{name} has shape {values.shape}, but the graph has {len(graph)} tasks")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        i = int(wrong[0])
        raise BadInput(
            f"{name} of task {i} ('{graph.ops[graph.op[i]]}') is {values[i]}; "
            "it must be a finite number of seconds >= 0"
        )


class _Engine:
    """One process per stream and one per issuing thread."""

    def __init__(
        self, graph: TaskGraph, duration_s: FloatArray, issue_s: FloatArray, sync_s: float
    ) -> None:
        self.env = simpy.Environment()
        self.graph = graph
        self.duration = duration_s.tolist()
        self.issue = issue_s.tolist()
        self.sync_s = sync_s
        n = len(graph)
        self.issued: list[float | None] = [None] * n
        self.start = [0.0] * n
        self.end: list[float | None] = [None] * n
        self.done: dict[int, simpy.Event] = {}  # only for tasks that somebody waits for
        self.wake: dict[int, simpy.Event] = {}  # streams that sleep until a task is issued
        offsets, flat = graph.offsets.tolist(), graph.dependencies.tolist()
        self.after = [flat[offsets[i] : offsets[i + 1]] for i in range(n)]
        self.stream_of = graph.stream.tolist()
        self.on_host = [name.startswith("host") for name in graph.streams]
        self.issuing_s = np.zeros(graph.hosts)

    def run(self) -> Run:
        queues: list[list[int]] = [[] for _ in self.graph.streams]
        for task, stream in enumerate(self.stream_of):
            queues[stream].append(task)
        for host in range(self.graph.hosts):
            self.env.process(self._host(host, self._program(host)))
        for stream, queue in enumerate(queues):
            if not self.on_host[stream]:
                self.env.process(self._stream(stream, queue))
        self.env.run()
        end = np.array(self.end, dtype=np.float64)
        start = np.array(self.start, dtype=np.float64)
        return Run(start, end, float(self.env.now), self.issuing_s)

    def _program(self, host: int) -> list[int | Wait]:
        """What one issuing thread does, in order: tasks, and waits where they stand."""
        program: list[int | Wait] = []
        waits = [w for w in self.graph.waits if w.host == host]
        place = 0
        for task in np.flatnonzero(self.graph.host == host).tolist():
            while place < len(waits) and waits[place].position <= task:
                program.append(waits[place])
                place += 1
            program.append(task)
        return program + list(waits[place:])

    def _host(self, host: int, program: list[int | Wait]) -> Steps:
        clock = 0.0  # when this thread is free; it may be ahead of the simulation
        for item in program:
            if isinstance(item, Wait):
                yield from self._until(clock)
                yield from self._ends_of(item.tasks)
                clock = self.env.now + self.sync_s
                self.issuing_s[host] += self.sync_s
                continue
            clock += self.issue[item]
            self.issuing_s[host] += self.issue[item]
            self.issued[item] = clock
            stream = self.stream_of[item]
            if self.on_host[stream]:
                yield from self._until(clock)
                yield from self._execute(item)
                clock = self.env.now
            elif stream in self.wake:
                self.wake.pop(stream).succeed()
        yield from self._until(clock)

    def _stream(self, stream: int, queue: list[int]) -> Steps:
        for task in queue:
            while (issued := self.issued[task]) is None:
                self.wake[stream] = self.env.event()
                yield self.wake[stream]
            yield from self._until(issued)
            yield from self._execute(task)

    def _execute(self, task: int) -> Steps:
        yield from self._ends_of(self.after[task])
        self.start[task] = self.env.now
        yield self.env.timeout(self.duration[task])
        self.end[task] = self.env.now
        if task in self.done:
            self.done.pop(task).succeed()

    def _ends_of(self, tasks: list[int] | tuple[int, ...]) -> Steps:
        for task in tasks:
            if self.end[task] is None:
                if task not in self.done:
                    self.done[task] = self.env.event()
                yield self.done[task]

    def _until(self, time: float) -> Steps:
        if time > self.env.now:
            yield self.env.timeout(time - self.env.now)
