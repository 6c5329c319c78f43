"""What waits for what in a phase, the issuing threads included.

Three kinds of events: a task runs, a thread issues a task, a thread is done with a wait. Each
begins when all that it waits for have ended, and nothing else plays a role; so the phase is a
network, and its makespan the longest path in it (the critical path method; Kelley and Walker,
Critical-path planning and scheduling, 1959).

* A task waits for the one before it on its stream, its dependencies, and its own issuing.
* Issuing a task waits for what the thread did before.
* The end of a wait waits for the tasks that the thread stopped for, and what it did before.

A task on a stream named `host...` is one of the things that its thread does.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.compiled import is_in_order, plan

TASK, ISSUE, SYNC = 0, 1, 2
"""Kinds of events."""


@dataclass(frozen=True, eq=False, slots=True)
class Events:
    """The network of a graph: v events, numbered so that each comes after all that it waits for.

    Parameters
    ----------
    kind: `TASK`, `ISSUE` or `SYNC`, shape (v,).
    item: the task; for `SYNC` the wait, counted thread by thread, shape (v,).
    lane: the stream that is busy with it; of a thread, its own, shape (v,).
    first, before: event i waits for `before[first[i]:first[i + 1]]`. The order is the one of
        preference at equal times: the stream, then dependencies in order of issue, then the thread.
    of_task: the event of each task, shape (n,).
    """

    graph: TaskGraph
    kind: IntArray
    item: IntArray
    lane: IntArray
    first: IntArray
    before: IntArray
    of_task: IntArray

    def lengths(self, duration_s: FloatArray, issue_s: FloatArray, sync_s: float) -> FloatArray:
        """Seconds that each event takes, shape (v,)."""
        seconds = np.full(len(self.kind), sync_s)
        for kind, values in ((TASK, duration_s), (ISSUE, issue_s)):
            chosen = self.kind == kind
            seconds[chosen] = values[self.item[chosen]]
        return seconds


def events_of(graph: TaskGraph, fifo: bool = True) -> Events:
    """The network of a graph as an issuer records it.

    Without `fifo`, tasks do not wait for the one before them on their stream: as if it had room for
    all of them at once. Raises `BadInput` for streams with several lanes, and for a graph in which
    tasks wait for later ones.
    """
    if graph.lanes or not is_in_order(graph):
        raise BadInput("only graphs as an issuer records them can be explained, one task at a time")
    tasks, waits = len(graph), len(graph.waits)
    count = 2 * tasks + waits
    most = count + tasks * 2 + len(graph.dependencies) + sum(len(w.tasks) for w in graph.waits)
    kind, item = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    first, before = np.empty(count + 1, dtype=np.int64), np.empty(most, dtype=np.int64)
    of_task = np.empty(tasks, dtype=np.int64)
    edges = kernels().weave(plan(graph), fifo, kind, item, first, before, of_task)
    return Events(graph, kind, item, _lanes(graph, kind, item), first, before[:edges], of_task)


def _lanes(graph: TaskGraph, kind: IntArray, item: IntArray) -> IntArray:
    """The stream of each event; what threads do is on theirs."""
    threads = [i for i, name in enumerate(graph.streams) if name.startswith("host")]
    if len(threads) < graph.hosts:
        raise BadInput(f"{graph.hosts} issuing threads, but {len(threads)} streams named host...")
    of_thread = np.array(threads, dtype=np.int64)
    waits = np.array(sorted(wait.host for wait in graph.waits), dtype=np.int64)
    lane = np.empty(len(kind), dtype=np.int64)
    for which, values in (
        (TASK, graph.stream),
        (ISSUE, of_thread[graph.host]),
        (SYNC, of_thread[waits]),
    ):
        chosen = kind == which
        lane[chosen] = values[item[chosen]]
    return lane


@lru_cache(maxsize=1)
def kernels() -> Any:
    """The compiled loops; numba takes a third of a second to import."""
    from sim import kernels_explain

    return kernels_explain
