"""The reference engine: discrete-event simulation of a task graph on SimPy.

Clear before fast: the semantics of moelab are read here.

* A **stream** starts its tasks in the order in which they were issued, one at a time, or as many at
  once as it has lanes.
* A task starts when it is its turn, a lane of its stream is free, it has been issued, and its
  dependencies have ended.
* An **issuing thread** (host) issues its tasks in program order, each taking `issue_s`. It runs
  ahead of the streams until a wait blocks it; a wait that is over costs `sync_s`. A task on a
  stream named `host...` runs on the issuing thread itself, which issues nothing meanwhile.
* Tasks that run at the same time share **channels** (see `sim.sharing`): whenever one starts or
  ends, the speeds of all change.
* At equal times, the stream that comes first in the graph's list of streams acts first.

Where nothing can go on and tasks are left, they wait for one another in a circle, which an error
names.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy
from simpy.resources.resource import Request

from schedules.graph import FloatArray, TaskGraph, Wait
from sim.deadlock import Stuck, check_known
from sim.sharing import Sharing, speeds
from sim.times import Run, checked

Steps = Generator[simpy.Event, Any, None]


def simulate_graph(
    graph: TaskGraph,
    duration_s: FloatArray,
    issue_s: FloatArray | None = None,
    sync_s: float = 0.0,
    sharing: Sharing | None = None,
) -> Run:
    """Run the graph against a virtual clock.

    Parameters
    ----------
    duration_s: seconds that each task takes when it runs alone, shape (n,).
    issue_s: seconds of the issuing thread for each task, shape (n,); none when left out.
    sync_s: seconds of the issuing thread for each wait, after what it waited for has ended.
    sharing: channels that tasks share, and what they demand; None: nothing is shared.

    Raises `BadInput` when a duration is negative or not finite, or something waits for a task that
    is not there; `Stuck` for tasks that wait for one another in a circle.
    """
    issue_s = checked(graph, duration_s, issue_s, sync_s)
    check_known(graph)
    return _Engine(graph, duration_s, issue_s, sync_s, sharing).run()


class _Engine:
    """One process per stream and one per issuing thread; one more for each running task."""

    def __init__(
        self,
        graph: TaskGraph,
        duration_s: FloatArray,
        issue_s: FloatArray,
        sync_s: float,
        sharing: Sharing | None,
    ) -> None:
        self.env = simpy.Environment()
        self.graph = graph
        self.duration = duration_s.tolist()
        self.issue = issue_s.tolist()
        self.sync_s = sync_s
        self.channels = _Channels(self.env, sharing) if sharing is not None else None
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
        self.idle_from = [0.0] * graph.hosts  # when each issuing thread is done

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
        left = [i for i, end in enumerate(self.end) if end is None]
        if left:
            raise Stuck(self.graph, left)
        end = np.array(self.end, dtype=np.float64)
        start = np.array(self.start, dtype=np.float64)
        # not env.now: timers of tasks that were sped up afterwards ring later
        makespan = max(float(end.max(initial=0.0)), *self.idle_from)
        return Run(start, end, makespan, self.issuing_s)

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
                yield from self._ends_of(self.after[item])
                yield from self._run(item)
                clock = self.env.now
            elif stream in self.wake:
                self.wake.pop(stream).succeed()
        self.idle_from[host] = clock

    def _stream(self, stream: int, queue: list[int]) -> Steps:
        lanes = simpy.Resource(self.env, self.graph.lanes_of(stream))
        for task in queue:
            while (issued := self.issued[task]) is None:
                self.wake[stream] = self.env.event()
                yield self.wake[stream]
            yield from self._until(issued)
            yield from self._ends_of(self.after[task])
            lane = lanes.request()
            yield lane
            if lanes.capacity == 1:
                yield from self._run(task)
                lanes.release(lane)
            else:
                self.env.process(self._on_lane(task, lanes, lane))

    def _on_lane(self, task: int, lanes: simpy.Resource, lane: Request) -> Steps:
        yield from self._run(task)
        lanes.release(lane)

    def _run(self, task: int) -> Steps:
        self.start[task] = self.env.now
        if self.channels is None:
            yield self.env.timeout(self.duration[task])
        else:
            yield from self.channels.run(task, self.duration[task])
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


class _Channels:
    """The tasks that run, each with the seconds that it would still take alone."""

    def __init__(self, env: simpy.Environment, sharing: Sharing) -> None:
        self.env, self.sharing = env, sharing
        self.left: dict[int, float] = {}
        self.since: dict[int, float] = {}  # when `left` was right
        self.speed: dict[int, float] = {}
        self.changed: dict[int, simpy.Event] = {}

    def run(self, task: int, seconds: float) -> Steps:
        """Run a task to its end, at whatever speed it gets."""
        self.left[task], self.since[task] = seconds, self.env.now
        self._share(task)
        while True:
            self.changed[task] = self.env.event()
            over = self.env.timeout(self.left[task] / self.speed[task])
            found = yield over | self.changed[task]
            if over in found:
                break
        for known in (self.left, self.since, self.speed, self.changed):
            known.pop(task)
        self._share()

    def _share(self, newcomer: int | None = None) -> None:
        """Give every running task its speed, and tell those whose speed has changed."""
        tasks = list(self.left)
        found = speeds(self.sharing.demand[tasks], self.sharing.capacity)
        for task, speed in zip(tasks, found, strict=True):
            before = self.speed.get(task)
            if task == newcomer or before == speed:
                self.speed[task] = speed
                continue
            assert before is not None
            now = self.env.now
            self.left[task] = max(0.0, self.left[task] - (now - self.since[task]) * before)
            self.since[task], self.speed[task] = now, speed
            if not self.changed[task].triggered:
                self.changed[task].succeed()
