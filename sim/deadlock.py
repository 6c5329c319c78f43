"""Tasks that wait for one another: an error that says which, and for what."""

from collections.abc import Iterable, Iterator

from schedules.errors import BadInput
from schedules.graph import TaskGraph

SHOWN = 6  # tasks of a circle that the error names


class Stuck(BadInput):
    """A graph whose tasks `left` can never run, because they wait for one another."""

    def __init__(self, graph: TaskGraph, left: Iterable[int]) -> None:
        self.circle = circle(graph, set(left))
        names = [_name(graph, task) for task in self.circle]
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
    blockers = dict(_blockers(graph, left))
    path: list[int] = []
    task = min(left)
    while task not in path:
        path.append(task)
        task = blockers[task]
    return path[path.index(task) :]


def _blockers(graph: TaskGraph, left: set[int]) -> Iterator[tuple[int, int]]:
    """Each task that is left, with one that it waits for."""
    last_on_stream: dict[int, int] = {}
    last_of_host: dict[int, int] = {}
    for task in sorted(left):
        stream, host = int(graph.stream[task]), int(graph.host[task])
        waited = [
            i
            for wait in graph.waits
            if wait.host == host and wait.position <= task
            for i in wait.tasks
        ]
        needed = [*graph.dependencies_of(task).tolist(), *waited]
        before = [last_on_stream.get(stream, -1), last_of_host.get(host, -1)]
        found = [i for i in (*needed, *before) if i in left]
        last_on_stream[stream] = task
        if graph.streams[stream].startswith("host"):
            last_of_host[host] = task
        yield task, found[0]


def _name(graph: TaskGraph, task: int) -> str:
    op, stream = graph.ops[graph.op[task]], graph.streams[graph.stream[task]]
    where = f"layer {graph.layer[task]}, micro-batch {graph.micro_batch[task]}"
    return f"task {task} ('{op}' on {stream}, {where})"
