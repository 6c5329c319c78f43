"""Little work without the compiled kernels, which take longer to load than it takes to do it.

The recurrence of `sim.compiled`, operation for operation, so that the results are the same bits. A
time is a number, or an array of one number for each of several steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schedules.graph import FloatArray, TaskGraph, Wait
from sim.decoding import Steps
from sim.padded import can_pad
from sim.times import Run, checked

TASKS = 100_000  # of a process, about 0.15 s; loading numba and what it imports takes 0.4 s
A_STEP_MORE = 1 / 20  # what another step of the same tasks costs, in tasks: arrays are fast
FIRST_STEP = 4  # and what the first of several costs, for arrays are slow to begin


class Allowance:
    """Tasks that may still be simulated like this.

    >>> allowance = Allowance(10)
    >>> [allowance.take(6), allowance.take(6), allowance.take(1)]
    [True, False, False]
    """

    def __init__(self, tasks: float) -> None:
        self.left = tasks

    def take(self, tasks: float) -> bool:
        """Whether there is room for so many more; once there was none, there never is again."""
        self.left -= tasks
        return self.left >= 0


def can_interpret(graph: TaskGraph) -> bool:
    """Whether streams have one lane each and all that is waited for comes earlier."""
    task = np.repeat(np.arange(len(graph)), np.diff(graph.offsets))
    late = any(not 0 <= i < wait.position for wait in graph.waits for i in wait.tasks)
    after = graph.dependencies
    return not graph.lanes and not late and bool(((after >= 0) & (after < task)).all())


def steps_cost(steps: Steps) -> float:
    """What `step_totals` costs, as so many tasks."""
    more = steps.last - steps.first
    return len(steps.graph) * (FIRST_STEP + more * A_STEP_MORE)


def simulate_graph(
    graph: TaskGraph, duration_s: FloatArray, issue_s: FloatArray | None = None, sync_s: float = 0.0
) -> Run:
    """Run a graph that `can_interpret`; parameters and errors as in `sim.engine`."""
    issue_s = checked(graph, duration_s, issue_s, sync_s)
    issue: list[float] = issue_s.tolist()
    start, end, clocks = _pass(graph, duration_s.tolist(), issue, sync_s, 0.0, max)
    issuing = [_issuing_s(graph, host, issue, sync_s) for host in range(graph.hosts)]
    return Run(np.array(start), np.array(end), max([0.0, *end, *clocks]), np.array(issuing))


def step_totals(steps: Steps, sync_s: float) -> FloatArray:
    """Makespan and busy seconds of every stream, for each of the steps: (steps, 1 + streams)."""
    graph, issue = steps.graph, steps.issue_s.tolist()
    shares = np.array([steps.share(step) for step in range(steps.first, steps.last + 1)])
    duration = _durations(steps, shares)
    nothing = np.zeros(len(shares))
    _, end, clocks = _pass(graph, list(duration), issue, sync_s, nothing, np.maximum)
    found = np.zeros((1 + len(graph.streams), len(shares)))
    found[0] = np.max([nothing, *end, *clocks], axis=0)
    np.add.at(found, 1 + graph.stream, duration)
    hosts = [i for i, name in enumerate(graph.streams) if name.startswith("host")]
    of_host = _issuing_in_turn_s if can_pad(graph) else _issuing_s
    for host, stream in enumerate(hosts):
        found[1 + stream] += of_host(graph, host, issue, sync_s)
    return found.T


def _durations(steps: Steps, shares: FloatArray) -> FloatArray:
    """Seconds of each task in each step, shape (n, steps)."""
    low, more = steps.low, steps.high - steps.low
    resources = range(low.shape[1])
    needs = (low[:, r, None] + more[:, r, None] * shares for r in resources)
    slowest = next(needs)
    for need in needs:
        slowest = np.maximum(slowest, need)
    return np.asarray(slowest + steps.fixed_s[:, None])


def _pass(
    graph: TaskGraph,
    duration: Sequence[Any],
    issue: Sequence[float],
    sync_s: float,
    nothing: Any,
    later: Callable[[Any, Any], Any],
) -> tuple[list[Any], list[Any], list[Any]]:
    """Start and end of each task, and when each issuing thread is done."""
    dependencies, offsets = graph.dependencies.tolist(), graph.offsets.tolist()
    on_host = [name.startswith("host") for name in graph.streams]
    free, clock = [nothing] * len(on_host), [nothing] * graph.hosts
    waits = _waits_by_position(graph)
    start: list[Any] = []
    end: list[Any] = []

    def stop(at: int) -> None:
        for wait in waits.get(at, ()):
            now = clock[wait.host]
            for task in wait.tasks:
                now = later(now, end[task])
            clock[wait.host] = now + sync_s

    streams, hosts = graph.stream.tolist(), graph.host.tolist()
    for i, (stream, host) in enumerate(zip(streams, hosts, strict=True)):
        if i in waits:
            stop(i)
        now = clock[host] + issue[i]
        begin = now if on_host[stream] else later(now, free[stream])
        for k in range(offsets[i], offsets[i + 1]):
            begin = later(begin, end[dependencies[k]])
        over = begin + duration[i]
        start.append(begin)
        end.append(over)
        free[stream] = over
        clock[host] = over if on_host[stream] else now
    for at in sorted(at for at in waits if at >= len(graph)):
        stop(at)
    return start, end, clock


def _waits_by_position(graph: TaskGraph) -> dict[int, list[Wait]]:
    found: dict[int, list[Wait]] = {}
    for wait in graph.waits:
        found.setdefault(wait.position, []).append(wait)
    return found


def _issuing_s(graph: TaskGraph, host: int, issue: Sequence[float], sync_s: float) -> float:
    """Seconds that a thread issues and synchronises, summed in the order of the program."""
    stops = [wait.position for wait in graph.waits if wait.host == host]
    spent, passed = 0.0, 0
    for i in np.flatnonzero(graph.host == host).tolist():
        while passed < len(stops) and stops[passed] <= i:
            spent += sync_s
            passed += 1
        spent += issue[i]
    for _ in stops[passed:]:
        spent += sync_s
    return spent


def _issuing_in_turn_s(graph: TaskGraph, host: int, issue: Sequence[float], sync_s: float) -> float:
    """The same, first all waits and then all tasks, as `sim.kernels.padded_pass` sums them."""
    spent = 0.0
    for _ in graph.waits:
        spent += sync_s
    for seconds in issue:
        spent += seconds
    return spent
