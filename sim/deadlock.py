"""Tasks that wait for one another, or for what is not there: errors that say which."""

from collections.abc import Iterable, Iterator

import numpy as np

from schedules.errors import BadInput
from schedules.graph import TaskGraph
from schedules.holders import named

SHOWN = 6  # tasks of a circle that the error names


class Stuck(BadInput):
    """A graph whose tasks `left` can never run, because they wait for one another."""

    def __init__(self, graph: TaskGraph, left: Iterable[int]) -> None:
        self.circle = circle(graph, set(left))
        names = [named(graph.task(task)) for task in self.circle]
        shown = names[:SHOWN] + ([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])
        super().__init__(
            f"these tasks wait for one another, and none can ever run: {' after '.join(shown)} "
            f"after {names[0]}"
        )


def circle(graph: TaskGraph, left: set[int]) -> list[int]:
    """Tasks of those left, each of which waits for the next, and the last for the first.

    A task waits for its dependencies, for the one before it on its stream, and for those that its
    issuing thread waits for before it issues it.
    """
    before, held = _before(graph, left), _held(graph, left)
    place: dict[int, int] = {}  # of each task on the way
    task = min(left)
    while task not in place:
        place[task] = len(place)
        needed = [i for i in graph.dependencies_of(task).tolist() if i in left]
        position, waited = held.get(int(graph.host[task]), (task + 1, -1))
        task = [*needed, *([waited] if position <= task else []), *before[task]][0]
    return list(place)[place[task] :]


def _before(graph: TaskGraph, left: set[int]) -> dict[int, list[int]]:
    """Of each task that is left: the one before it on its stream, and on its issuing thread."""
    on_host = [name.startswith("host") for name in graph.streams]
    last_on_stream: dict[int, int] = {}
    last_of_host: dict[int, int] = {}
    before: dict[int, list[int]] = {}
    for task in sorted(left):
        stream, host = int(graph.stream[task]), int(graph.host[task])
        found = (last_on_stream.get(stream), last_of_host.get(host))
        before[task] = [i for i in found if i is not None]
        last_on_stream[stream] = task
        if on_host[stream]:
            last_of_host[host] = task
    return before


def _held(graph: TaskGraph, left: set[int]) -> dict[int, tuple[int, int]]:
    """Of each issuing thread that a wait holds for good: where, and a task that it waits for."""
    held: dict[int, tuple[int, int]] = {}
    for wait in graph.waits:
        for task in wait.tasks:
            if task in left and wait.host not in held:
                held[wait.host] = wait.position, task
    return held


def check_known(graph: TaskGraph) -> None:
    """Raise `BadInput` where something waits for a task that the graph does not have."""
    n, after = len(graph), graph.dependencies
    lost = np.flatnonzero((after < 0) | (after >= n))
    if len(lost):
        task = int(np.searchsorted(graph.offsets, lost[0], side="right")) - 1
        raise BadInput(_unknown(named(graph.task(task)), int(after[lost[0]]), n))
    for host, task in _waited(graph):
        if not 0 <= task < n:
            raise BadInput(_unknown(f"issuing thread {host}", task, n))


def _waited(graph: TaskGraph) -> Iterator[tuple[int, int]]:
    return ((wait.host, task) for wait in graph.waits for task in wait.tasks)


def _unknown(who: str, task: int, n: int) -> str:
    return f"{who} waits for task {task}, but the graph has tasks 0 to {n - 1} only"
