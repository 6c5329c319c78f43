"""Why each task of a phase started when it did, and the critical path.

Every event of a phase (`sim.events`) begins at the very moment at which one of those that it waits
for ends; that one binds it. Where several end at the same time, the first of these is named: the
task before it on its stream, a dependency (the one issued first), the issuing thread. Followed back
from the event that ends last, what binds leads to time 0 without a gap: the critical path.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.events import ISSUE, TASK, Events, kernels

STREAM, DEPENDENCY, THREAD = "stream", "dependency", "thread"
"""Causes of a start: the task before it on its stream, a dependency, the issuing thread."""

THREADS = ("(issuing)", "(waits)")
"""Names of what threads do, in the order of the kinds of events."""


@dataclass(frozen=True, eq=False, slots=True)
class Times:
    """When the events of a phase begin and end, and what binds them.

    Parameters
    ----------
    length_s, begin_s, end_s: shape (v,), seconds from the start of the phase.
    binding: the event at whose end each begins, shape (v,); -1: none, it begins at 0.
    held: the last task on the way back from each event along what binds, that is the task that a
        thread waited for before it issued on; -1: none.
    """

    events: Events
    length_s: FloatArray
    begin_s: FloatArray
    end_s: FloatArray
    binding: IntArray
    held: IntArray

    @property
    def makespan_s(self) -> float:
        """When the last event has ended."""
        return float(self.end_s.max(initial=0.0))

    def critical_path(self) -> IntArray:
        """Its events in order of time; the lengths add up to the makespan.

        Of several that end last, the one issued last counts, a wait after its tasks.
        """
        path = np.empty_like(self.binding)
        last = np.flatnonzero(self.end_s == self.makespan_s)  # none, of nothing
        count = kernels().walk_back(self.binding, int(last[-1]) if len(last) else -1, path)
        return path[:count][::-1]

    def slack_s(self) -> FloatArray:
        """How much longer each event could take without a longer makespan, shape (v,).

        On the critical path it is 0, exactly. Where tasks share channels, all others take as long
        as they did.
        """
        slack = self.makespan_s - self.end_s
        events = self.events
        kernels().backward(events.first, events.before, self.begin_s, self.end_s, slack)
        return slack


def times_of(
    events: Events,
    duration_s: FloatArray,
    issue_s: FloatArray,
    sync_s: float = 0.0,
    end_s: FloatArray | None = None,
) -> Times:
    """When all events happen; tasks start and end as in the compiled engine, to the bit.

    Parameters
    ----------
    duration_s, issue_s: seconds of each task, and of issuing it, shape (n,).
    sync_s: seconds of each wait.
    end_s: when each task really ends, where tasks share channels and so take longer than
        `duration_s`, shape (n,); their lengths are then those that they had.
    """
    length = events.lengths(duration_s, issue_s, sync_s)
    begin, end = np.empty(len(length)), np.empty(len(length))
    binding, held = np.empty(len(length), dtype=np.int64), np.empty(len(length), dtype=np.int64)
    given = np.zeros(0) if end_s is None else end_s
    order = events.kind, events.item, events.first, events.before
    kernels().forward(*order, length, given, begin, end, binding, held)
    return Times(events, length, begin, end, binding, held)


def causes(times: Times) -> pd.DataFrame:
    """A row per task, in order of issue, with the one thing that its start waited for.

    Columns: `start_s`, `end_s`; `cause`, see `STREAM` and those beside it; `by`, the task that it
    was: where the thread was late, the one for which it had stopped last, and -1 where it had
    stopped for none and only issued; `idle_s`, for how long its stream was idle before it;
    `slack_s`; `critical`, whether it is on the critical path.
    """
    events = times.events
    own = events.of_task
    bound = times.binding[own]
    stream = events.graph.stream
    by = np.where(times.held[own] >= 0, events.item[times.held[own]], -1)
    same = (by >= 0) & (stream[by] == stream)
    cause = np.where(events.kind[bound] == ISSUE, THREAD, np.where(same, STREAM, DEPENDENCY))
    critical = np.zeros(len(events.kind), dtype=bool)
    critical[times.critical_path()] = True
    return pd.DataFrame(
        {
            "start_s": times.begin_s[own],
            "end_s": times.end_s[own],
            "cause": cause,
            "by": by,
            "idle_s": _idle_before(times)[own],
            "slack_s": times.slack_s()[own],
            "critical": critical[own],
        }
    )


def _idle_before(times: Times) -> FloatArray:
    """For how long the lane of each event was idle before it, shape (v,)."""
    lane = times.events.lane
    order = np.argsort(lane, kind="stable")  # within a lane, events follow one another
    free = np.zeros(len(lane))
    free[order[1:]] = np.where(lane[order[1:]] == lane[order[:-1]], times.end_s[order[:-1]], 0.0)
    return np.asarray(times.begin_s - free)


def by_op(times: Times, chosen: IntArray) -> FloatArray:
    """How many of the chosen events there are, and their seconds: shape (2, `op_names`)."""
    events, ops = times.events, len(times.events.graph.ops)
    kind, item = events.kind[chosen], events.item[chosen]
    op = ops + kind - ISSUE  # of what threads do
    op[kind == TASK] = events.graph.op[item[kind == TASK]]
    code = op * len(events.graph.streams) + events.lane[chosen]
    size = len(op_names(events.graph))
    counts = np.bincount(code, minlength=size)
    return np.stack([counts, np.bincount(code, times.length_s[chosen], size)])


def op_names(graph: TaskGraph) -> list[tuple[str, str]]:
    """All pairs of op and stream; what threads do is `(issuing)` and `(waits)`."""
    return [(op, stream) for op in (*graph.ops, *THREADS) for stream in graph.streams]
