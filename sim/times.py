"""What every engine takes and gives: when each task of a graph ran."""

import math
from dataclasses import dataclass

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph


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


def checked(
    graph: TaskGraph, duration_s: FloatArray, issue_s: FloatArray | None, sync_s: float
) -> FloatArray:
    """The seconds of issuing each task, zeros when left out.

    Raises `BadInput` when a duration is negative or not finite, or there is not one for each task.
    """
    _check(graph, duration_s, "duration_s")
    if issue_s is None:
        issue_s = np.zeros(len(graph))
    _check(graph, issue_s, "issue_s")
    if not (math.isfinite(sync_s) and sync_s >= 0):
        raise BadInput(f"sync_s is {sync_s}; it must be a finite number of seconds >= 0")
    return issue_s


def _check(graph: TaskGraph, values: FloatArray, name: str) -> None:
    if values.shape != (len(graph),):
        raise BadInput(f"{name} has shape {values.shape}, but the graph has {len(graph)} tasks")
    if not len(values) or (values.min() >= 0 and values.max() < math.inf):
        return  # a NaN fails both comparisons
    i = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
    raise BadInput(
        f"{name} of task {i} ('{graph.ops[graph.op[i]]}') is {values[i]}; "
        "it must be a finite number of seconds >= 0"
    )


def busy_s(graph: TaskGraph, duration_s: FloatArray, run: Run) -> FloatArray:
    """Seconds of work of every stream, as if each task ran alone; the host's issuing included."""
    streams = graph.streams
    busy: FloatArray = np.zeros(len(streams))
    np.add.at(busy, graph.stream, duration_s)
    hosts = [i for i, name in enumerate(streams) if name.startswith("host")]
    busy[hosts] = busy[hosts] + run.issuing_s
    return busy
