"""A finite set of tasks to be ordered: those of one decode step."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.optimal.flow import Flow, Kind

NO_TASK = -1


class Stay(NamedTuple):
    """Something that lies in one place of a kind.

    Parameters
    ----------
    opens: the task that brings it; `NO_TASK`: it has been there from the beginning.
    users: all tasks that touch it, `opens` among them.
    stays: it is needed later, and so stays to the end.
    """

    kind: int
    opens: int
    users: tuple[int, ...]
    stays: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """Tasks, n of them, whose order on their streams is free.

    Parameters
    ----------
    graph: the tasks as a schedule has issued them. duration_s: seconds of each, shape (n,).
    before: pairs (i, j): i must have ended before j starts.
    stays: what lies where. places: how many of each kind there are. kinds: their names.
    """

    graph: TaskGraph
    duration_s: FloatArray
    before: tuple[tuple[int, int], ...]
    stays: tuple[Stay, ...]
    places: tuple[int, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.duration_s)

    def loads_s(self) -> FloatArray:
        """Seconds of work of each stream, over its lanes: none can end earlier."""
        lanes = [self.graph.lanes_of(s) for s in range(len(self.graph.streams))]
        work = np.bincount(self.graph.stream, self.duration_s, len(lanes))
        return np.asarray(work / np.array(lanes))


def window(graph: TaskGraph, duration_s: FloatArray, flow: Flow, first: int) -> Problem:
    """The problem of the recorded tasks from `first` on that `graph` holds."""
    last = first + len(graph)
    pairs = [
        (before - first, task - first)
        for task in range(first, last)
        for before in flow.after[task]
        if before >= first
    ]
    numbers: dict[Kind, int] = {kind: i for i, kind in enumerate(flow.places)}
    stays = []
    for life in flow.lives:
        users = tuple(task - first for task in life.users if first <= task < last)
        later = life.users[-1] >= last
        if life.opens >= last or (life.opens < first and not users and not later):
            continue
        opens = life.opens - first if life.opens >= first else NO_TASK
        stays.append(Stay(numbers[life.kind], opens, users, later))
    return Problem(
        graph,
        duration_s,
        tuple(pairs),
        tuple(stays),
        tuple(flow.places.values()),
        tuple(kind.name for kind in flow.places),
    )


def ordered(problem: Problem, start: FloatArray, end: FloatArray) -> TaskGraph:
    """The tasks in the order of these start times, as a graph that any engine runs.

    Its dependencies are the data's and those that keep the number of stays within the places:
    whoever opens one waits for those whose places are taken over. Nobody waits at a host.
    """
    order = order_of(start)
    rank = np.empty(len(problem), dtype=np.int64)
    rank[order] = np.arange(len(problem))
    after: dict[int, set[int]] = defaultdict(set)
    for i, j in (*problem.before, *_handed_over(problem, start, end)):
        after[int(rank[j])].add(int(rank[i]))
    lists = [sorted(after[i]) for i in range(len(problem))]
    source = problem.graph
    return replace(
        source,
        op=source.op[order],
        stream=source.stream[order],
        work=source.work[order],
        layer=source.layer[order],
        micro_batch=source.micro_batch[order],
        step=source.step[order],
        host=source.host[order],
        offsets=np.concatenate([[0], np.cumsum([len(x) for x in lists], dtype=np.int64)]),
        dependencies=np.array([i for x in lists for i in x], dtype=np.int64),
        waits=(),
    )


def order_of(start: FloatArray) -> IntArray:
    """The tasks in the order of `ordered`."""
    return np.lexsort((np.arange(len(start)), start))


def _handed_over(problem: Problem, start: FloatArray, end: FloatArray) -> list[tuple[int, int]]:
    """Pairs (user of a stay, task that opens a later one in its place)."""
    pairs: list[tuple[int, int]] = []
    for kind, places in enumerate(problem.places):
        stays = [stay for stay in problem.stays if stay.kind == kind]
        if len(stays) > places:
            pairs += _pairs(stays, places, start, end)
    return pairs


def _pairs(
    stays: list[Stay], places: int, start: FloatArray, end: FloatArray
) -> list[tuple[int, int]]:
    def opened(stay: Stay) -> tuple[float, int]:
        return (start[stay.opens], stay.opens) if stay.opens != NO_TASK else (-np.inf, NO_TASK)

    def over(stay: Stay) -> float:
        return np.inf if stay.stays else max((end[u] for u in stay.users), default=-np.inf)

    opening = sorted(stays, key=opened)
    ending = sorted(stays, key=over)
    return [
        (user, opening[n].opens)
        for n in range(places, len(opening))
        for stay in ending[: n - places + 1]
        for user in stay.users
        if user != opening[n].opens
    ]
