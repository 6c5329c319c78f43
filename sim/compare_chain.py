"""What each task waited for, on any clock, and where two clocks part.

A task may start when the task before it on its stream, its dependencies, and what its issuing
thread had stopped for have ended. The one of them that ended last is what it waited for; what then
still passes before it starts is lateness: issuing, the wake-up of a worker, or nobody's fault.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.causes import DEPENDENCY, STREAM, THREAD
from sim.compare_run import Clocks

TOLERANCE = 0.01
"""Starts that differ by more than this share of the measured phase count as apart."""

NOTHING = "nothing"


def waited_for(graph: TaskGraph, end_s: FloatArray) -> IntArray:
    """For each task the one that it waited for, given when all end; -1: none. Shape (n,)."""
    found = np.full(len(graph), -1)
    last = [-1] * len(graph.streams)
    held = [-1] * graph.hosts
    waits = [deque(w for w in graph.waits if w.host == host) for host in range(graph.hosts)]
    threads = {i for i, name in enumerate(graph.streams) if name.startswith("host")}
    ends = end_s.tolist()
    places = zip(graph.stream.tolist(), graph.host.tolist(), strict=True)
    for task, (stream, host) in enumerate(places):
        while waits[host] and waits[host][0].position <= task:
            held[host] = _latest([held[host], *waits[host].popleft().tasks], ends)
        needed = [last[stream], *graph.dependencies_of(task).tolist(), held[host]]
        found[task] = _latest(needed, ends)
        last[stream] = task
        if stream in threads:
            held[host] = task
    return found


def _latest(tasks: list[int], ends: list[float]) -> int:
    """The task that ends last, the first of equals; -1 where there is none."""
    return max((task for task in tasks if task >= 0), key=ends.__getitem__, default=-1)


def late_on_chain(graph: TaskGraph, start_s: FloatArray, end_s: FloatArray) -> FloatArray:
    """How late each task of the chain started that decided a phase, 0 for others; shape (n,).

    The chain leads from the task that ends last to the first, each of which the one after it waited
    for. Its tasks' seconds and latenesses add up to the last end.
    """
    by = waited_for(graph, end_s)
    found = np.zeros(len(graph))
    for task in chain(by, end_s):
        found[task] = start_s[task] - (end_s[by[task]] if by[task] >= 0 else 0.0)
    return found


def chain(by: IntArray, end_s: FloatArray) -> Iterator[int]:
    """From the task that ends last back to the first: each waited for the next."""
    task = int(end_s.argmax()) if len(end_s) else -1
    while task >= 0:
        yield task
        task = int(by[task])


def divergence(phase: Clocks, tolerance: float = TOLERANCE) -> dict[str, Any] | None:
    """The earliest task whose measured and simulated starts are apart, None where none is.

    Starts count from the first start of the phase on either clock; `tolerance` is a share of the
    measured phase. For each clock it says which task was waited for, why (`STREAM`, `DEPENDENCY`,
    `THREAD` or `NOTHING`), how late the start was after that task's end, and what that task took.
    """
    first_s = phase.simulated.start_s.min(initial=np.inf)
    start_s, end_s = phase.simulated.start_s - first_s, phase.simulated.end_s - first_s
    allowed = tolerance * phase.measured_span_s
    apart = np.flatnonzero(np.abs(start_s - phase.measured_start_s) > allowed)
    if not len(apart):
        return None
    earlier = np.minimum(start_s, phase.measured_start_s)[apart]
    task = int(apart[earlier.argmin()])
    return {
        "step": phase.step,
        **_place(phase.graph, task),
        "tolerance_s": allowed,
        "measured": _waiting(phase, task, phase.measured_start_s, phase.measured_end_s),
        "simulated": _waiting(phase, task, start_s, end_s),
    }


def _waiting(phase: Clocks, task: int, start_s: FloatArray, end_s: FloatArray) -> dict[str, Any]:
    """When a task started on a clock, and after what."""
    graph = phase.graph
    by = int(waited_for(graph, end_s)[task])
    known = {"start_s": float(start_s[task]), "cause": _cause(graph, task, by)}
    if by < 0:
        return known | {"late_s": float(start_s[task])}
    return {
        **known,
        **_place(graph, by),
        "late_s": float(start_s[task] - end_s[by]),
        "took_s": float(end_s[by] - start_s[by]),
    }


def _cause(graph: TaskGraph, task: int, by: int) -> str:
    if by < 0:
        return NOTHING
    if graph.stream[by] == graph.stream[task]:
        return STREAM
    return DEPENDENCY if by in graph.dependencies_of(task) else THREAD


def _place(graph: TaskGraph, task: int) -> dict[str, Any]:
    return {
        "op": graph.ops[graph.op[task]],
        "stream": graph.streams[graph.stream[task]],
        "layer": int(graph.layer[task]),
        "micro_batch": int(graph.micro_batch[task]),
    }
