"""The compiled engine: the semantics of `sim.engine` as one pass over arrays (numba).

A task depends only on tasks issued before it, streams are FIFO, and an issuing thread waits for
nothing that comes later. So, taken in issue order, everything that a task waits for is known:

    issued = clock of its issuing thread + issue_s
    start  = max(issued, end of the task before it on its stream, ends of its dependencies)
    end    = start + duration_s

A wait moves the thread's clock to the last end it waits for, plus `sync_s`; a task on a stream
named `host...` runs on the thread itself. Nothing is drawn: the same inputs give the same bits.

Where streams have lanes or share channels, or a graph that no issuer has made is out of order, the
loop goes from event to event instead (`sim.kernels_shared`).

Compiled on first use and kept on disk; importing this module compiles nothing.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.deadlock import Stuck, check_known
from sim.decoding import Steps
from sim.padded import can_pad, pad
from sim.sharing import Sharing
from sim.times import Run, busy_s, checked


class Plan(NamedTuple):
    """A graph as the kernels read it.

    Parameters
    ----------
    stream, host: of each task. on_host: of each stream, whether it is an issuing thread.
    offsets, dependencies: those of task i are `dependencies[offsets[i]:offsets[i + 1]]`.
    first_wait: of each host, and one more: its waits are `first_wait[h]` to `first_wait[h + 1]`.
    wait_at: position of each wait: before which task. wait_offsets, waited: tasks that it is for.
    """

    stream: IntArray
    host: IntArray
    on_host: Any
    offsets: IntArray
    dependencies: IntArray
    first_wait: IntArray
    wait_at: IntArray
    wait_offsets: IntArray
    waited: IntArray


FEW = 4  # steps, which are as fast one after another as a block of them
_NONE = np.zeros(0, dtype=np.int64)
NO_TASKS = TaskGraph(
    streams=(),
    ops=(),
    works=(),
    hosts=1,
    op=_NONE,
    stream=_NONE,
    work=_NONE,
    layer=_NONE,
    micro_batch=_NONE,
    step=_NONE,
    host=_NONE,
    offsets=np.zeros(1, dtype=np.int64),
    dependencies=_NONE,
    waits=(),
)


def plan(graph: TaskGraph) -> Plan:
    """The graph as arrays of 32-bit numbers, waits sorted by issuing thread."""
    waits = sorted(graph.waits, key=lambda wait: wait.host)  # stable: by position within a host
    sizes = [len(wait.tasks) for wait in waits]
    hosts = np.array([wait.host for wait in waits], dtype=np.int64)

    def small(values: Any) -> Any:
        return np.ascontiguousarray(values, dtype=np.int32)

    return Plan(
        stream=small(graph.stream),
        host=small(graph.host),
        on_host=np.array([name.startswith("host") for name in graph.streams], dtype=np.bool_),
        offsets=small(graph.offsets),
        dependencies=small(graph.dependencies),
        first_wait=small(np.searchsorted(hosts, np.arange(graph.hosts + 1))),
        wait_at=small([wait.position for wait in waits]),
        wait_offsets=small(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])),
        waited=small([task for wait in waits for task in wait.tasks]),
    )


def simulate_graph(
    graph: TaskGraph,
    duration_s: FloatArray,
    issue_s: FloatArray | None = None,
    sync_s: float = 0.0,
    sharing: Sharing | None = None,
) -> Run:
    """Run the graph against a virtual clock; parameters and errors as in `sim.engine`."""
    issue_s = checked(graph, duration_s, issue_s, sync_s)
    start, end = np.empty(len(graph)), np.empty(len(graph))
    times = duration_s, issue_s, sync_s
    out = start, end, np.zeros(graph.hosts)
    if sharing is None and not graph.lanes and is_in_order(graph):
        makespan = _kernels().one_pass(plan(graph), *times, *out)
    else:
        makespan = _by_events(graph, times, sharing, out)
    return Run(start, end, float(makespan), out[2])


def step_totals(steps: Steps, sync_s: float) -> FloatArray:
    """Makespan and busy seconds of every stream, for each of the steps: (steps, 1 + streams)."""
    graph, count = steps.graph, steps.last - steps.first + 1
    found = np.zeros((count, 1 + len(graph.streams)))
    numbers = np.array([steps.share(s) for s in range(steps.first, steps.last + 1)])
    limits = steps.low, steps.high, steps.fixed_s, steps.issue_s
    if steps.light is not None or graph.lanes or not is_in_order(graph):
        for row, step in enumerate(range(steps.first, steps.last + 1)):
            duration_s = steps.duration_s(step)
            run = simulate_graph(graph, duration_s, steps.issue_s, sync_s, steps.sharing(step))
            found[row] = run.makespan_s, *busy_s(graph, duration_s, run)
        return found
    hosts = [i for i, name in enumerate(graph.streams) if name.startswith("host")]
    layout, laid = pad(graph) if can_pad(graph) else pad(NO_TASKS), plan(graph)
    alone = count if count < FEW else 1
    issuing = _kernels().many_steps(layout, laid, *limits, sync_s, numbers[:alone], found[:alone])
    if alone < count:
        _in_blocks(steps, laid, sync_s, numbers[alone:], found[alone:])
    found[:, [1 + i for i in hosts]] += issuing[0]  # the same in every step
    return found


def _in_blocks(
    steps: Steps, laid: Plan, sync_s: float, shares: FloatArray, found: FloatArray
) -> None:
    """Makespan and busy seconds, without those of issuing, of steps that go side by side."""
    kernels = _step_kernels()
    kind = steps.lasting[1].astype(np.int32)
    for first in range(0, len(shares), kernels.BLOCK):
        some = shares[first : first + kernels.BLOCK]
        filled = np.pad(some, (0, kernels.BLOCK - len(some)), mode="edge")
        block = np.zeros((found.shape[1], kernels.BLOCK))
        seconds = steps.seconds(filled)
        kernels.block_of_steps(laid, kind, seconds, steps.issue_s, sync_s, block)
        found[first : first + len(some)] = block.T[: len(some)]


def is_in_order(graph: TaskGraph) -> bool:
    """Whether tasks depend only on tasks before them, and threads wait only for such.

    So it is with all that an issuer records.
    """
    late = any(not 0 <= i < wait.position for wait in graph.waits for i in wait.tasks)
    return not late and bool(_kernels().in_order(graph.offsets, graph.dependencies))


def _by_events(
    graph: TaskGraph,
    times: tuple[FloatArray, FloatArray, float],
    sharing: Sharing | None,
    out: tuple[FloatArray, FloatArray, FloatArray],
) -> float:
    """From event to event, where the order of issue does not say who goes on next."""
    check_known(graph)
    n, streams = len(graph), range(len(graph.streams))
    lanes = np.array([graph.lanes_of(stream) for stream in streams], dtype=np.int64)
    demand = np.zeros((n, 0)) if sharing is None else np.ascontiguousarray(sharing.demand)
    capacity = np.zeros(0) if sharing is None else sharing.capacity
    makespan = _shared_kernels().shared_run(plan(graph), lanes, *times, demand, capacity, *out)
    if makespan < 0:
        raise Stuck(graph, np.flatnonzero(np.isinf(out[1])).tolist())
    return float(makespan)


@lru_cache(maxsize=1)
def _kernels() -> Any:
    from sim import kernels  # numba takes a third of a second to import

    return kernels


@lru_cache(maxsize=1)
def _step_kernels() -> Any:
    from sim import kernels_steps

    return kernels_steps


@lru_cache(maxsize=1)
def _shared_kernels() -> Any:
    from sim import kernels_shared

    return kernels_shared
