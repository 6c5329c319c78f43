"""Where the idle time of every stream comes from.

A stream is idle between two tasks, before its first and after its last one. Every such interval of
a phase ends when the next task starts, so the cause is what that start waited for (`sim.causes`):

* `dependency`: a task on another stream, whose result it needs.
* `thread`: the task was not issued yet, because its thread had stopped for a task, or ran one.
* `issuing`: it was not issued yet, because issuing takes time; the part of the interval in which
  the thread had nothing to wait for any more.
* `first`: before the first task of the stream in the phase, whatever the cause.
* `end`: nothing is left to do in the phase.

An issuing thread is busy while it issues or synchronises, and idle while it is stopped.
"""

import numpy as np

from schedules.graph import FloatArray, TaskGraph
from sim.causes import Times
from sim.events import kernels

CAUSES = ("first", "end", "dependency", "thread", "issuing")
"""In the order of the kernels' numbers."""

Idle = dict[tuple[str, str, str | None, str | None], float]
"""Seconds by stream, cause, and the op and stream of the task that was waited for, if any."""


def nothing_idle(graph: TaskGraph) -> FloatArray:
    """Zeros to which `add_idle` adds, by stream, cause, op and its stream; the last: no task."""
    streams = len(graph.streams)
    return np.zeros((streams, len(CAUSES), len(graph.ops) + 1, streams + 1))


def add_idle(times: Times, found: FloatArray) -> None:
    """Add the idle seconds of one phase."""
    events = times.events
    op = np.full(len(events.kind), -1)
    op[events.of_task] = events.graph.op
    kernels().idle(
        events.kind,
        events.lane,
        op,
        events.lane,
        times.begin_s,
        times.end_s,
        times.binding,
        times.held,
        times.makespan_s,
        found,
    )


def named(graph: TaskGraph, found: FloatArray) -> Idle:
    """What is not zero of it, by name."""
    ops, streams = (*graph.ops, None), (*graph.streams, None)
    return {
        (graph.streams[lane], CAUSES[cause], ops[op], streams[stream]): float(
            found[lane, cause, op, stream]
        )
        for lane, cause, op, stream in np.argwhere(found > 0).tolist()
    }
