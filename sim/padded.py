"""A graph laid out so that the compiled engine's loop has no branches.

Every task has three that it waits for: the one before it on its stream and two dependencies, or
nothing, which stands for a task that ended at 0. What an issuing thread does between two stops (a
wait, or a task on the thread itself) is then one straight loop. Graphs of one thread whose tasks
have two dependencies at most can be laid out so; those of all schedules here on one GPU can.
"""

from typing import Any, NamedTuple

import numpy as np

from schedules.graph import IntArray, TaskGraph

MOST = 2  # dependencies


class Padded(NamedTuple):
    """The graph for `sim.kernels.padded_pass`; tasks are numbered from 1, and 0 is nothing.

    Parameters
    ----------
    before, first, second: the task before on the stream, and two dependencies, of each task.
    stop_at: position of each stop. stop_from, stop_to: at a wait, which of `waited` it is for; at
        a task on the thread itself `stop_from` is -1.
    """

    before: Any
    first: Any
    second: Any
    stop_at: IntArray
    stop_from: IntArray
    stop_to: IntArray
    waited: IntArray


def can_pad(graph: TaskGraph) -> bool:
    """Whether a graph in the order of issue can be laid out like this."""
    return (
        graph.hosts == 1 and not graph.lanes and int(np.diff(graph.offsets).max(initial=0)) <= MOST
    )


def pad(graph: TaskGraph) -> Padded:
    """Lay a graph out; see `can_pad`."""
    n = len(graph)
    before = np.zeros(n, dtype=np.uint32)
    order = np.argsort(graph.stream, kind="stable")
    same = graph.stream[order[1:]] == graph.stream[order[:-1]]
    before[order[1:][same]] = order[:-1][same] + 1
    counts = np.diff(graph.offsets)
    first, second = np.zeros(n, dtype=np.uint32), np.zeros(n, dtype=np.uint32)
    first[counts > 0] = graph.dependencies[graph.offsets[:-1][counts > 0]] + 1
    second[counts > 1] = graph.dependencies[graph.offsets[:-1][counts > 1] + 1] + 1
    hosts = [i for i, name in enumerate(graph.streams) if name.startswith("host")]
    own = np.flatnonzero(np.isin(graph.stream, hosts)).tolist()
    sizes = np.cumsum([0, *(len(wait.tasks) for wait in graph.waits)])
    stops = [(wait.position, 0, sizes[i], sizes[i + 1]) for i, wait in enumerate(graph.waits)]
    stops = sorted([*stops, *((task, 1, -1, -1) for task in own)], key=lambda stop: stop[:2])
    columns = np.array(stops, dtype=np.int64).reshape(-1, 4).T
    waited = [task + 1 for wait in graph.waits for task in wait.tasks]
    numbers = np.array(waited, dtype=np.int64)
    return Padded(
        before, first, second, columns[0].copy(), columns[2].copy(), columns[3].copy(), numbers
    )
