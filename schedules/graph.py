"""The task graph: what a schedule issued, as arrays, and the issuer that records it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput
from schedules.issuer import Issuer, Operands
from schedules.task import Task, Work

if TYPE_CHECKING:
    import networkx as nx

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
RoutingTrace = Callable[[Task], IntArray]


@dataclass(frozen=True, slots=True)
class Wait:
    """Issuing thread `host` blocks before task `position` until `tasks` have ended."""

    host: int
    position: int
    tasks: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class TaskGraph:
    """Tasks in issue order, n of them, as parallel arrays of shape (n,).

    `op[i]` indexes `ops`, `stream[i]` indexes `streams`, `work[i]` indexes `works`; the
    dependencies of task i are `dependencies[offsets[i]:offsets[i + 1]]`. `waits` are sorted by
    position: where an issuing thread stops. `lanes` says how many tasks each stream runs at once;
    empty: one.
    """

    streams: tuple[str, ...]
    ops: tuple[str, ...]
    works: tuple[Work, ...]
    hosts: int
    op: IntArray
    stream: IntArray
    work: IntArray
    layer: IntArray
    micro_batch: IntArray
    step: IntArray
    host: IntArray
    offsets: IntArray
    dependencies: IntArray
    waits: tuple[Wait, ...]
    lanes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.op)

    def lanes_of(self, stream: int) -> int:
        """Tasks that a stream runs at once."""
        return self.lanes[stream] if self.lanes else 1

    def dependencies_of(self, task: int) -> IntArray:
        """Tasks that must have ended before `task` starts."""
        return self.dependencies[self.offsets[task] : self.offsets[task + 1]]

    def task(self, number: int) -> Task:
        """The handle of a task, counted from 0 in this graph."""
        op, stream = self.ops[self.op[number]], self.streams[self.stream[number]]
        where = (int(column[number]) for column in (self.layer, self.micro_batch, self.step))
        return Task(number, op, stream, *where)

    def same_structure(self, other: "TaskGraph") -> bool:
        """Whether the two differ in amounts of work and step numbers at most."""
        arrays = ("op", "stream", "layer", "micro_batch", "host", "offsets", "dependencies")
        return (
            self.streams == other.streams
            and self.ops == other.ops
            and self.waits == other.waits
            and self.lanes == other.lanes
            and all(np.array_equal(getattr(self, a), getattr(other, a)) for a in arrays)
        )

    def to_networkx(self) -> "nx.DiGraph":
        """Nodes are task indices; edges carry `kind` 'data' or 'stream' (FIFO order)."""
        import networkx as nx  # slow to import, and a simulation needs none of it

        graph = nx.DiGraph()
        previous: dict[int, int] = {}
        for i in range(len(self)):
            graph.add_node(
                i,
                op=self.ops[self.op[i]],
                stream=self.streams[self.stream[i]],
                layer=int(self.layer[i]),
                micro_batch=int(self.micro_batch[i]),
                step=int(self.step[i]),
            )
            if (before := previous.get(int(self.stream[i]))) is not None:
                graph.add_edge(before, i, kind="stream")
            previous[int(self.stream[i])] = i
            for j in self.dependencies_of(i):
                graph.add_edge(int(j), i, kind="data")
        return graph


class RecordingIssuer(Issuer):
    """The simulator's issuer: records a `TaskGraph`.

    Parameters
    ----------
    trace: answers `routing(gate)` with expert ids, shape (tokens, top_k).
    """

    def __init__(
        self,
        streams: Sequence[str],
        capacities: Mapping[str, int],
        hosts: int = 1,
        trace: RoutingTrace | None = None,
        lanes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(streams, capacities, hosts, lanes)
        self._trace = trace
        self._taken: list[tuple[int, TaskGraph | ref[TaskGraph]]] = []  # with their first tasks
        self._held = [0] * len(self.pools)  # bytes, when a graph was taken last
        self._clear()

    def _clear(self) -> None:
        self._first = self.count
        self._ops: dict[str, int] = {}
        self._works: dict[int, int] = {}
        self._work_list: list[Work] = []
        self._rows: list[tuple[int, int, int, int, int, int, int]] = []
        self._offsets: list[int] = [0]
        self._dependencies: list[int] = []  # by the issuer's numbers
        self._waits: list[Wait] = []
        self._last: dict[int, list[int]] = {}  # whose ends are those of all tasks of a stream

    def _issue(
        self,
        task: Task,
        stream_id: int,
        dependencies: list[int],
        work: Work,
        operands: Operands,
    ) -> None:
        op = self._ops.setdefault(task.op, len(self._ops))
        row = self._works.get(id(work))
        if row is None:
            row = self._works[id(work)] = len(self._work_list)
            self._work_list.append(work)
        number, _, _, layer, micro_batch, step = task
        self._rows.append((op, stream_id, row, layer, micro_batch, step, self._host))
        if len(dependencies) > 1:
            dependencies.sort()
        self._dependencies += dependencies
        self._offsets.append(len(self._dependencies))
        if stream_id in self._wide:
            self._last.setdefault(stream_id, []).append(number)
        else:
            self._last[stream_id] = [number]

    def _wait(self, tasks: tuple[int, ...], every_host: bool) -> None:
        first = self._first
        local = tuple(i - first for i in tasks if i >= first)
        for host in range(self.hosts) if every_host else (self.host,):
            self._waits.append(Wait(host, self.count - first, local))

    def _last_tasks(self, stream_ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i for s in stream_ids for i in self._last.get(s, ()))

    def _routing(self, gate: Task) -> IntArray:
        if self._trace is None:
            raise BadInput(
                f"task '{gate.op}' asks for routing, but no routing was given to the simulator"
            )
        return self._trace(gate)

    def take(self) -> TaskGraph:
        """The graph issued since the last call; call it right after a barrier of all streams."""
        if self._settled != self.count:
            raise BadInput("a graph can be taken only right after a barrier of all streams")
        columns = np.array(self._rows, dtype=np.int64).reshape(-1, 7).T  # as `_issue` appends them
        graph = TaskGraph(
            streams=self.streams,
            ops=tuple(self._ops),
            works=tuple(self._work_list),
            hosts=self.hosts,
            offsets=np.array(self._offsets, dtype=np.int64),
            dependencies=np.array(self._dependencies, dtype=np.int64) - self._first,
            waits=tuple(self._waits),
            op=columns[0],
            stream=columns[1],
            work=columns[2],
            layer=columns[3],
            micro_batch=columns[4],
            step=columns[5],
            host=columns[6],
            lanes=self.lane_counts if self._wide else (),
        )
        self._taken.append((self._first, graph if self._holds_more() else ref(graph)))
        self._clear()
        return graph

    def _holds_more(self) -> bool:
        """Whether the graph ends with more memory in use: should a pool be full, it has to tell."""
        before, self._held = self._held, [pool.used_bytes for pool in self.pools.values()]
        return any(now > then for now, then in zip(self._held, before, strict=True))

    def issued(self, number: int) -> Task | None:
        """The task of that number; None where nobody has kept the graph that it is in."""
        if number >= self._first:
            op, stream, _, *where, _ = self._rows[number - self._first]
            return Task(number, list(self._ops)[op], self.streams[stream], *where)
        first, taken = next(pair for pair in reversed(self._taken) if pair[0] <= number)
        graph = taken() if isinstance(taken, ref) else taken
        return None if graph is None else graph.task(number - first)._replace(number=number)
