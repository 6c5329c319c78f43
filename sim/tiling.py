"""A phase issued for a few layers, and tiled to all of them.

Schedules go through the layers in a loop, so what they issue repeats: two layers later come the
same tasks on the same streams, with the same dependencies so many tasks earlier (two, because
weights go to two buffers in turn). A phase of eight layers shows the repetition twice. Where its
second period is the first one to the letter, the periods between are copies.

What has to repeat is checked task by task: operation, stream, layer, micro-batch, thread, work,
dependencies and waits. Phases that do not repeat, and models whose layers differ, are issued whole.
"""

from dataclasses import dataclass, replace

import numpy as np

from schedules.graph import IntArray, TaskGraph, Wait
from schedules.model import LayerSpec

ISSUED = 8  # layers
PERIOD = 2  # layers
COLUMNS = ("op", "stream", "work", "micro_batch", "step", "host")


def can_tile(layers: tuple[LayerSpec, ...]) -> bool:
    """Whether a pass has more layers than are issued, in whole periods, and all of them alike."""
    plain = {replace(layer, index=0, number=0) for layer in layers}
    return len(plain) == 1 and len(layers) > ISSUED and (len(layers) - ISSUED) % PERIOD == 0


def tiled(graph: TaskGraph, n_layers: int) -> TaskGraph | None:
    """The phase of `n_layers` layers from that of the first `ISSUED`; None without a period."""
    found = _period(graph)
    return None if found is None else _repeated(graph, found, (n_layers - ISSUED) // PERIOD)


@dataclass(frozen=True)
class Period:
    """Tasks [start, start + size) and those that follow them are the same, a period later."""

    start: int
    size: int


def _period(graph: TaskGraph) -> Period | None:
    """Where the phase repeats; looked for from the middle, where neither end reaches."""
    n, middle = len(graph), ISSUED // 2
    if int(graph.layer.max(initial=0)) >= ISSUED:
        return None  # the schedule goes through the layers in a way of its own, and issued them all
    size = int(np.isin(graph.layer, range(middle - PERIOD, middle)).sum())
    if not size or 2 * size > n:
        return None
    same = _same(graph, size)
    # the longest run of tasks that are the same a period later
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return None
    start, stop = runs[np.argmax(runs[:, 1] - runs[:, 0])].tolist()
    if stop - start < size or not _waits_repeat(graph, start, size):
        return None
    return Period(start, size)


def _same(graph: TaskGraph, size: int) -> IntArray:
    """For each task but the last `size`: whether the task `size` later is the same."""
    n = len(graph) - size
    same = np.ones(n, dtype=bool)
    for name in COLUMNS:
        column = getattr(graph, name)
        same &= column[:n] == column[size:]
    later = np.where(graph.layer[:n] < 0, graph.layer[:n], graph.layer[:n] + PERIOD)
    same &= later == graph.layer[size:]
    counts = np.diff(graph.offsets)
    same &= counts[:n] == counts[size:]
    for place in range(int(counts.max(initial=0))):
        has = same & (counts[:n] > place)
        at, then = graph.offsets[:n][has] + place, graph.offsets[size:-1][has] + place
        same[has] &= graph.dependencies[at] + size == graph.dependencies[then]
    return np.asarray(same)


def _waits_repeat(graph: TaskGraph, start: int, size: int) -> bool:
    """Whether the waits of the first period are those of the second, a period later."""
    one, two = (
        [w for w in graph.waits if first < w.position <= first + size]
        for first in (start, start + size)
    )
    moved = [_moved(wait, size) for wait in one]
    return moved == two


def _moved(wait: Wait, by: int) -> Wait:
    return Wait(wait.host, wait.position + by, tuple(task + by for task in wait.tasks))


def _repeated(graph: TaskGraph, period: Period, copies: int) -> TaskGraph | None:
    """The second period `copies` times more; what follows it comes that much later.

    None where what follows depends on something before both periods, which may or may not repeat.
    """
    start, size, n = period.start, period.size, len(graph)
    begin, end = start + size, start + 2 * size  # of the second period
    if (graph.dependencies[graph.offsets[end] :] < start).any():
        return None
    second = np.arange(begin, end)
    source = np.concatenate([np.arange(end), np.tile(second, copies), np.arange(end, n)])
    copy = np.repeat(np.arange(1, copies + 1), size)
    later = np.concatenate([np.zeros(end, int), copy, np.full(n - end, copies)])  # periods
    counts = np.diff(graph.offsets)[source]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    old = graph.dependencies[np.repeat(graph.offsets[source], counts) + place]
    layer = graph.layer[source]
    # Behind the periods the layers of the next pass, which it begins with, keep their numbers.
    of_this_pass = (source < end) | (layer >= ISSUED // 2)
    layer = np.where(of_this_pass & (layer >= 0), layer + PERIOD * later, layer)
    return replace(
        graph,
        **{name: getattr(graph, name)[source] for name in COLUMNS},
        layer=layer,
        offsets=offsets,
        dependencies=old + np.repeat(later * size, counts),
        waits=_waits(graph, period, copies),
    )


def _waits(graph: TaskGraph, period: Period, copies: int) -> tuple[Wait, ...]:
    """Those of the second period again and again, the ones behind it later.

    What these wait for is later too, unless it came before both periods: the last task of a stream
    that the layers do not use.
    """
    start, size = period.start, period.size
    begin, end, shift = start + size, start + 2 * size, copies * size
    waits = [wait for wait in graph.waits if wait.position <= end]
    inside = [wait for wait in graph.waits if begin < wait.position <= end]
    waits += [_moved(wait, copy * size) for copy in range(1, copies + 1) for wait in inside]
    for wait in graph.waits:
        if wait.position > end:
            tasks = tuple(task + shift if task >= start else task for task in wait.tasks)
            waits.append(Wait(wait.host, wait.position + shift, tasks))
    return tuple(waits)
