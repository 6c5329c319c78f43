"""The steady state: tasks that repeat with every layer, or every few layers."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, IntArray, TaskGraph
from sim.optimal.flow import Flow, Life
from sim.optimal.problem import Problem, Stay

LIKE = 1e-9
"""Relative difference of two durations that are the same."""


class Name(NamedTuple):
    """A task of each period.

    `part` is its layer within the period; `number` tells those apart that are alike otherwise.
    """

    op: str
    stream: int
    micro_batch: int
    part: int
    number: int


class Link(NamedTuple):
    """Task `after` of period k waits for task `before` of period k - `periods`."""

    before: int
    after: int
    periods: int


class Use(NamedTuple):
    """A task that touches a stay, `periods` after the one that opens it."""

    task: int
    periods: int


class CyclicStay(NamedTuple):
    """What lies in one place of a kind, anew in every period."""

    kind: int
    opens: int
    uses: tuple[Use, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Cycle:
    """Tasks, n of them, that repeat.

    Parameters
    ----------
    names: of the tasks. streams: names of all streams. stream: of each task, shape (n,).
    duration_s: seconds of each, shape (n,).
    links: what must have ended. stays: what lies where. places: how many of each kind there are.
    kinds: their names. layers: how many a period has. source: a task of the graph for each.
    """

    names: tuple[Name, ...]
    streams: tuple[str, ...]
    stream: IntArray
    duration_s: FloatArray
    links: tuple[Link, ...]
    stays: tuple[CyclicStay, ...]
    places: tuple[int, ...]
    kinds: tuple[str, ...]
    layers: int
    source: IntArray

    def __len__(self) -> int:
        return len(self.names)

    def loads_s(self) -> FloatArray:
        """Seconds of work of each stream in a period."""
        return np.bincount(self.stream, self.duration_s, len(self.streams)).astype(np.float64)

    def starts_of(self, start_s: FloatArray, late: int) -> FloatArray:
        """Starts of the tasks of a period that is `late` periods later than `source`."""
        return np.asarray(start_s[self.source + late * len(self)])


def recorded_layers(layers: int) -> int:
    """Layers that a model must have so that a period of `layers` can be told from its ends."""
    return 4 * layers + 6


def cycle(graph: TaskGraph, duration_s: FloatArray, flow: Flow, first: int, layers: int) -> Cycle:
    """The period of `layers` layers in the middle of a decode step, which begins at task `first`.

    Raises `BadInput` where the layers there are not alike, or a task among them has no layer.
    """
    if graph.lanes:
        raise BadInput("a period is sought only where each stream runs one task at a time")
    base = 2 + layers
    here = _Fold(graph, duration_s, flow, first, base, layers)
    there = _Fold(graph, duration_s, flow, first, base + layers, layers)
    one, other = here.fold(), there.fold()
    if not _alike(one, other):
        raise BadInput(
            f"the tasks of layers {base} and {base + layers} differ, so no period of "
            f"{layers} layer{'s' if layers > 1 else ''} repeats; try another number of layers, or "
            "the makespan of a window (without --periodic)"
        )
    return one


def _alike(one: Cycle, other: Cycle) -> bool:
    return (
        one.names == other.names
        and set(one.links) == set(other.links)
        and sorted(one.stays) == sorted(other.stays)
        and np.array_equal(one.source + len(one), other.source)
        and np.allclose(one.duration_s, other.duration_s, rtol=LIKE, atol=0)
    )


class _Fold:
    """Names for the tasks of a step, and the periods in which they lie, counted from `base`."""

    def __init__(
        self,
        graph: TaskGraph,
        duration_s: FloatArray,
        flow: Flow,
        first: int,
        base: int,
        layers: int,
    ) -> None:
        self.graph, self.duration_s, self.flow = graph, duration_s, flow
        self.first, self.layers = first, layers
        self.period = (graph.layer - base) // layers
        self.names = self._named(base)
        chosen = np.flatnonzero((self.period == 0) & (graph.layer >= 0)).tolist()
        self.chosen = sorted(chosen, key=lambda task: self.names[task])
        self.number = {self.names[task]: i for i, task in enumerate(self.chosen)}

    def _named(self, base: int) -> list[Name]:
        graph = self.graph
        seen: Counter[tuple[str, int, int, int]] = Counter()
        names = []
        for i in range(len(graph)):
            op, layer = graph.ops[graph.op[i]], int(graph.layer[i])
            stream, batch = int(graph.stream[i]), int(graph.micro_batch[i])
            seen[op, stream, batch, layer] += 1
            number = seen[op, stream, batch, layer]
            names.append(Name(op, stream, batch, (layer - base) % self.layers, number))
        return names

    def fold(self) -> Cycle:
        flow, first, graph = self.flow, self.first, self.graph
        kinds = {kind: i for i, kind in enumerate(flow.places)}
        chosen = set(self.chosen)
        stays = [
            CyclicStay(kinds[life.kind], self._place(life.opens).task, self._uses(life))
            for life in flow.lives
            if life.opens - first in chosen
        ]
        source = np.array(self.chosen, dtype=np.int64)
        return Cycle(
            tuple(self.names[task] for task in self.chosen),
            graph.streams,
            graph.stream[source],
            self.duration_s[source],
            tuple(self._links()),
            tuple(stays),
            tuple(flow.places.values()),
            tuple(kind.name for kind in flow.places),
            self.layers,
            source,
        )

    def _links(self) -> list[Link]:
        found = []
        for task in self.chosen:
            for before in self.flow.after[task + self.first]:
                if before < self.first:  # a step before this one has left it
                    continue
                link = self._place(before)
                found.append(Link(link.task, self.number[self.names[task]], -link.periods))
        return found

    def _uses(self, life: Life) -> tuple[Use, ...]:
        return tuple(sorted(self._place(user) for user in life.users))

    def _place(self, task: int) -> Use:
        """A recorded task as one of the period, so many periods later."""
        local = task - self.first
        known = 0 <= local < len(self.graph)
        if not known or self.graph.layer[local] < 0 or self.names[local] not in self.number:
            raise BadInput(
                "the tasks in the middle of a decode step need some that belong to no layer or to "
                "another step, so no layer repeats; ask for the makespan of a window (without "
                "--periodic)"
            )
        return Use(self.number[self.names[local]], int(self.period[local]))


def unrolled(cycle: Cycle, graph: TaskGraph, periods: int) -> tuple[Problem, IntArray]:
    """So many periods as a finite problem, numbered as the schedule issues the tasks.

    Also the number of task i of period k, shape (periods, n).
    """
    n = len(cycle)
    issued = cycle.source + n * np.arange(periods)[:, None]  # a period issues n tasks
    order = np.argsort(issued.ravel(), kind="stable")
    number = np.argsort(order).reshape(issued.shape)
    links = {
        (int(number[k - link.periods, link.before]), int(number[k, link.after]))
        for k in range(periods)
        for link in cycle.links
        if 0 <= k - link.periods < periods
    }
    stays = [_unrolled_stay(stay, k, number) for k in range(periods) for stay in cycle.stays]
    which = order % n
    problem = Problem(
        _tiled(graph, cycle.source[which], (order // n) * cycle.layers),
        cycle.duration_s[which],
        tuple(sorted(links, key=lambda pair: pair[1])),
        tuple(stays),
        cycle.places,
        cycle.kinds,
    )
    return problem, number


def _unrolled_stay(stay: CyclicStay, period: int, number: IntArray) -> Stay:
    uses = [(period + later, task) for task, later in stay.uses]
    users = tuple(int(number[k, task]) for k, task in uses if 0 <= k < len(number))
    later = any(k >= len(number) for k, _ in uses)
    return Stay(stay.kind, int(number[period, stay.opens]), users, later)


def _tiled(graph: TaskGraph, source: IntArray, layers: IntArray) -> TaskGraph:
    """These tasks of the graph, so many layers later, without dependencies and waits."""
    return replace(
        graph,
        op=graph.op[source],
        stream=graph.stream[source],
        work=graph.work[source],
        layer=graph.layer[source] + layers,
        micro_batch=graph.micro_batch[source],
        step=graph.step[source],
        host=graph.host[source],
        offsets=np.zeros(len(source) + 1, dtype=np.int64),
        dependencies=np.zeros(0, dtype=np.int64),
        waits=(),
    )
